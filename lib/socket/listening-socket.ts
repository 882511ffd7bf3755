import { lookup } from 'node:dns/promises'
import { type AddressInfo, isIP } from 'node:net'
import { type SocketFileOptions, bindAddressWithRetry, fileAccessOf } from '../address/socket-file.ts'
import { addressOf } from '../address/socket-address.ts'
import { backlogOf } from '../base/validate.ts'
import { type Descriptor, takeFd, wrapFd } from '../descriptor/descriptor.ts'
import { native } from '../native/binding.ts'
import { closeFds } from '../native/owned-fds.ts'
import { fdAt, putFdAt } from '../native/results.ts'
import { systemError } from '../native/system-error.ts'
import { bindListener } from './bind-listener.ts'
import { addressOfSocket } from '../address/socket-address.ts'
import { type Source, sourceFd } from './listen-source.ts'
import { makeSocket } from './new-socket.ts'

/** A listening or datagram socket, opened from a {@link Source}. The environment's table owns its descriptor. */
export class ListeningSocket {
  readonly name: string
  readonly fd: number
  readonly address: AddressInfo | string | null
  #closed = false

  /** Takes ownership of a number of the table: it closes it if it throws. */
  private constructor(name: string, fd: number) {
    this.name = name
    this.fd = fd
    try {
      this.address = addressOfSocket(fd)
    } catch (error) {
      closeFds([fd])
      throw error
    }
  }

  /** Opens a source. The descriptor of a `'descriptor'` source is duplicated. */
  static async open(source: Source, backlog?: number, file: SocketFileOptions = {}): Promise<ListeningSocket> {
    return new ListeningSocket(source.name, await openSource(source, backlog, file))
  }

  /** Takes ownership of a descriptor that another process has opened from the source of this name. */
  static adopt(name: string, descriptor: Descriptor): ListeningSocket {
    return new ListeningSocket(name, takeFd(descriptor))
  }

  /** Returns a second descriptor of the socket. */
  duplicate(): Descriptor {
    return wrapFd(duplicateOf(this.fd))
  }

  /** Closes the socket, and removes its file if this process made it. Further calls do nothing: two services may share the socket. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    closeFds([this.fd])
  }
}

async function openSource(source: Source, backlog: number | undefined, file: SocketFileOptions): Promise<number> {
  switch (source.kind) {
    case 'descriptor':
      return duplicateOf(sourceFd(source.descriptor))
    case 'unix':
      return openUnix(source.path, source.backlog ?? backlog, {
        mode: source.mode ?? file.mode,
        owner: source.owner ?? file.owner,
        group: source.group ?? file.group
      })
    case 'udp': {
      const host = (await hostOf(source.host)) ?? '::'
      let fd = native.udpSocket(host, source.port)
      if (fd < 0 && source.host === undefined) fd = native.udpSocket('0.0.0.0', source.port)
      if (fd < 0) throw systemError(fd, 'bind', source.name)
      return fd
    }
    case 'tcp': {
      const { port, ipv6Only, reusePort } = source
      const host = await hostOf(source.host)
      return takeFd(bindListener({ port, host, ipv6Only, reusePort, backlog: source.backlog ?? backlog }))
    }
  }
}

/** Duplicates a descriptor; the environment's table owns the duplicate. */
export function duplicateOf(fd: number): number {
  putFdAt(0, fd)
  const code = native.duplicate(1)
  if (code < 0) throw systemError(code, 'fcntl')
  return fdAt(0)
}

/** Returns the IP address of a host; looks names up. */
async function hostOf(host: string | undefined): Promise<string | undefined> {
  return host === undefined || isIP(host) !== 0 ? host : (await lookup(host)).address
}

async function openUnix(path: string, backlog: number | undefined, file: SocketFileOptions): Promise<number> {
  const fd = makeSocket('stream')
  try {
    const name = addressOf('path', path, 'bind')
    const isFile = !path.startsWith('\0')
    await bindAddressWithRetry(fd, name, isFile ? fileAccessOf(file, name) : {})
    const code = native.listen(fd, backlogOf(backlog), true)
    if (code < 0) throw systemError(code, 'listen', path)
    return fd
  } catch (error) {
    closeFds([fd])
    throw error
  }
}
