import { type EventEmitter } from 'node:events'
import { USocket, type USocketRead } from 'fdpass/usocket'

/** Resolves at an event, errors or not. */
export const event = (emitter: EventEmitter, name: string) =>
  new Promise<unknown>((done) => emitter.once(name, (value: unknown) => done(value)))

/** Reads so much as soon as it is there, as programs written to usocket do. */
export function readWhenThere(socket: USocket, size: number | null, count: number | null): Promise<USocketRead> {
  return new Promise((done) => {
    const look = () => {
      const message = socket.read(size, count)
      if (message === null) return
      socket.removeListener('readable', look)
      done(message)
    }
    socket.on('readable', look)
    look()
  })
}
