// A client of the soak test's broker: `broker-client.js PATH FILES CALLS SEED`. Prints how many answers were right, and errors by their codes.
import { readFileSync } from 'node:fs'
import { connectBroker } from 'fdpass/broker'
import { generator } from '../helpers/random.ts'

const [path, ...numbers] = process.argv.slice(2)
const [files, calls, seed] = numbers.map(Number) as [number, number, number]
const { below } = generator(seed)
const seen: Record<string, number> = {}
const count = (what: string) => (seen[what] = (seen[what] ?? 0) + 1)

for (let left = calls; left > 0;) {
  let broker
  try {
    broker = await connectBroker(path!)
  } catch (error) {
    count((error as NodeJS.ErrnoException).code!)
    left--
    continue
  }
  while (left > 0) {
    const some = Math.min(left, 1 + below(8))
    left -= some
    await Promise.all(
      Array.from({ length: some }, async () => {
        const file = below(files)
        try {
          const fd = await broker.open(`file-${file}`)
          count(readFileSync(fd.fd, 'utf8') === `content ${file}` ? 'right' : 'wrong')
          fd.closeSync()
        } catch (error) {
          count((error as NodeJS.ErrnoException).code!)
        }
      })
    )
    if (below(20) === 0) break
  }
  broker.close()
}
console.log(JSON.stringify(seen))
