import { Duplex } from 'node:stream'
import type { FdSource, UnixSocket } from 'fdpass'

/** A socket as the stream by which dbus-native passes descriptors. What 'fds' gives is the listener's to close. */
export class DBusStream extends Duplex {
  readonly #socket: UnixSocket

  constructor(socket: UnixSocket) {
    super()
    this.#socket = socket
  }

  writeWithFds(data: Uint8Array, fds: readonly FdSource[]): boolean {
    this.#socket.send(data, { fds }).catch((error: Error) => this.destroy(error))
    return true
  }

  // Not held back here, as what has descriptors would overtake it: the socket keeps the order, and what has to wait.
  override _write(data: Uint8Array, _encoding: unknown, callback: () => void): void {
    this.writeWithFds(data, [])
    callback()
  }

  override _read(): void {
    this.#receive().catch((error: Error) => this.destroy(error))
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#socket.close()
    callback(error)
  }

  async #receive(): Promise<void> {
    const message = await this.#socket.recv()
    const fds = message?.fds.map((fd) => fd.release()) ?? []
    if (fds.length > 0) this.emit('fds', fds)
    this.push(message && Buffer.from(message.data))
  }
}
