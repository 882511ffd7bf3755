import { clearTimeout, setTimeout } from 'node:timers'
import { onAbort } from './abort.ts'
import { aborted } from './errors/abort.ts'

// Where no event announces that a call would succeed, it is made again after pauses that double.
/** The first pause, in milliseconds. */
export const FIRST_PAUSE = 1
/** The longest. */
export const LONGEST_PAUSE = 64

/** Makes a call again and again until it gives something else than `busy`, and gives that. */
export async function retry(call: () => number, busy: number | undefined, signal?: AbortSignal): Promise<number> {
  let code = call()
  for (let length = FIRST_PAUSE; code === busy; length = Math.min(length * 2, LONGEST_PAUSE)) {
    await pause(length, signal)
    code = call()
  }
  return code
}

function pause(length: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abortion = onAbort(signal, () => {
      clearTimeout(timer)
      abortion![Symbol.dispose]()
      reject(aborted(signal!))
    })
    const timer = setTimeout(() => {
      abortion?.[Symbol.dispose]()
      resolve()
    }, length)
  })
}
