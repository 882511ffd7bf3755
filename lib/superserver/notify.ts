import { bind } from '../datagram.ts'

/** Tells the service manager something, if there is one: sd_notify(3). */
export async function notify(...assignments: string[]): Promise<void> {
  const { NOTIFY_SOCKET } = process.env
  if (NOTIFY_SOCKET === undefined || NOTIFY_SOCKET === '') return
  using socket = bind(null)
  await socket.send(assignments.join('\n'), { to: NOTIFY_SOCKET.replace(/^@/, '\0') })
}

/** Now, as a service manager wants it of a reload: microseconds of CLOCK_MONOTONIC. */
export function monotonic(): string {
  return `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`
}
