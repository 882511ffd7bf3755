// What the parents in JavaScript have in common.
import { createInterface } from 'node:readline'

const ANSWER = Buffer.alloc(64, 'r')

/** What each worker does. */
export function answering(connection) {
  connection.on('error', () => {}).end(ANSWER)
}

/** Prints the port; measures this process's own CPU between two lines of input, prints it and ends. */
export function speak(port, end) {
  let begun
  const cpu = () => {
    const { user, system } = process.cpuUsage(begun)
    return (user + system) / 1e6
  }
  createInterface({ input: process.stdin }).on('line', async () => {
    if (begun === undefined) {
      begun = process.cpuUsage()
      return
    }
    console.log(cpu().toFixed(6))
    await end()
    process.exit()
  })
  console.log(port)
}
