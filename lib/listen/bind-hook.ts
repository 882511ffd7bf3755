import { Socket } from 'node:dgram'
import { withCode } from '../base/internal.ts'
import { debug } from './listen-hook.ts'
import { type DatagramSource, displayDatagrams, matchDatagrams } from './matching.ts'

/** Has a socket of the program take a source: `bind` binds it to a descriptor, which the socket owns from then on. */
export type TakeDatagrams<S> = (socket: Socket, source: S, bind: (fd: number) => void) => void

type Arguments = unknown[]

/** Has the datagram sockets of this program take passed ones when they bind: `dgram.Socket#bind()`. */
export function hookBind<S extends DatagramSource>(sources: readonly S[], take: TakeDatagrams<S>): void {
  const original = Socket.prototype.bind as (this: Socket, ...args: Arguments) => Socket
  /** The sockets that wait for their descriptors. */
  const waiting = new WeakSet<Socket>()
  Socket.prototype.bind = function (this: Socket, ...args: Arguments) {
    const wanted = wantedOf(args)
    if (waiting.has(this)) {
      // send() binds a socket to any port, and sends when it is listening.
      if (wanted?.port === 0) return this
      throw withCode(new Error('Socket is already bound'), 'ERR_SOCKET_ALREADY_BOUND')
    }
    const source = wanted === undefined ? undefined : matchDatagrams(sources, wanted)
    if (wanted === undefined || source === undefined) return original.apply(this, args)
    debug(`${displayDatagrams(wanted)} takes ${source.socket.name}`)
    const callback = args.at(-1)
    waiting.add(this)
    source.taker = this
    this.once('close', () => {
      waiting.delete(this)
      if (source.taker === this) source.taker = undefined
    })
    take(this, source, (fd) => {
      waiting.delete(this)
      original.call(this, { fd }, typeof callback === 'function' ? callback : undefined)
    })
    return this
  }
}

/** Returns what the arguments of `bind` name; undefined for a descriptor. Arguments that are invalid are for Node to refuse. */
function wantedOf([first, second]: Arguments): { port: number; address: string | null } | undefined {
  const isObject = typeof first === 'object' && first !== null
  const { port, address, fd } = (isObject ? first : { port: first, address: second }) as Record<string, unknown>
  if (fd !== undefined && fd !== null) return undefined
  return { port: Number(port ?? 0), address: typeof address === 'string' && address !== '' ? address : null }
}
