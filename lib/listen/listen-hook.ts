import { type EventEmitter, errorMonitor } from 'node:events'
import type { Server } from 'node:net'
import { constants } from 'node:os'
import { setImmediate } from 'node:timers'
import { type Listen, hasHandle, nodeListen, pipeNameOf, replaceListen } from '../descriptor/internal.ts'
import { checkRuntime } from '../base/internal.ts'
import { ServerDrain } from '../handover/internal.ts'
import { displayPassed } from '../superserver/internal.ts'
import { displayWanted, isSameAddress, matchSource, type PassedSource, type Wanted } from './matching.ts'

/** How a process takes what was passed to it. */
export interface Taking<S extends PassedSource> {
  /** Has a server take a source, in place of listening itself. */
  take(server: Server, source: S, wanted: Wanted, listen: (fd?: number) => void): void
  /**
   * Called two turns after a server has begun to listen, or has got a listener of 'connection'. A program may only try whether a port is
   * free.
   */
  taken(): void
  /** Called when a server listens itself, because nothing was passed for it. */
  unmatched(text: string): void
}

/** Reports what the preload does, with FDPASS_DEBUG=listen. */
export function debug(text: string): void {
  if (process.env.FDPASS_DEBUG?.split(',').includes('listen') === true) {
    process.stderr.write(`fdpass/listen ${process.pid}: ${text}\n`)
  }
}

/** Has the servers of this program take passed sockets when they listen. Throws ERR_UNSUPPORTED_PLATFORM on a runtime other than Node. */
export function hookListen<S extends PassedSource>(sources: readonly S[], taking: Taking<S>): void {
  const why = 'fdpass/listen needs Node, of whose net.Server it replaces a method'
  checkRuntime('Bun', why)
  checkRuntime('Deno', why)
  const original = nodeListen()
  const listen: Listen = function (this: Server, address, port, addressType, backlog, fd, flags) {
    const asBefore = () => original.call(this, address, port, addressType, backlog, fd, flags)
    if (hasHandle(this) || (typeof fd === 'number' && fd >= 0)) return asBefore()
    const path = pipeNameOf(this)
    const wanted: Wanted = path === undefined ? { path, address, port } : { path, address: null, port: null }
    const source = matchSource(sources, wanted)
    if (source === undefined) {
      noteUnmatched(this, wanted, sources, taking)
      return asBefore()
    }
    for (const taker of source.takers) {
      if (isSameAddress(taker.address, wanted.address)) return failInUse(this, wanted)
    }
    debug(`${displayWanted(wanted)} takes ${displayPassed(source.socket)}`)
    taking.take(this, source, wanted, (passed) => {
      if (passed === undefined) asBefore()
      else original.call(this, null, null, null, backlog, passed)
    })
    const check = () => void setImmediate(() => setImmediate(() => taking.taken()))
    check()
    const checkLater = (event: string) => {
      if (event === 'connection') check()
    }
    this.on('newListener', checkLater)
    this.once('close', () => this.off('newListener', checkLater)) // a program may listen with it again and again
  }
  replaceListen(listen)
}

/** Fails as a second server on one address does. */
function failInUse(server: Server, { path, address, port }: Wanted): void {
  const where = path ?? `${address ?? '::'}:${port}`
  const error = Object.assign(new Error(`listen EADDRINUSE: address already in use ${where}`), {
    code: 'EADDRINUSE',
    errno: -constants.errno.EADDRINUSE,
    syscall: 'listen',
    address: path ?? address ?? '::',
    ...(path === undefined && { port })
  })
  process.nextTick(() => server.emit('error', error))
}

let hasWarned = false

/** Reports a server that listens itself while a passed socket is not taken. */
function noteUnmatched<S extends PassedSource>(
  server: Server,
  wanted: Wanted,
  sources: readonly S[],
  taking: Taking<S>
): void {
  const where = displayWanted(wanted)
  debug(`${where} was not passed`)
  const waiting = sources.filter(({ takers }) => takers.size === 0).map(({ socket }) => displayPassed(socket))
  if (wanted.port === 0) return
  const monitored: EventEmitter = server
  const explain = (error: Error & { code?: string }) => {
    server.off('listening', report) // the program may try again
    if (error.code === 'EADDRINUSE') error.message += `; pass it: --listen ${where}`
  }
  const report = () => {
    monitored.off(errorMonitor, explain)
    const [first] = waiting
    if (first === undefined) return
    const text =
      `The program listens on ${where}, which was not passed to it. It does not listen on ${waiting.join(', ')}. ` +
      `To serve ${first} with it: --listen ${first.replace(/=.*/s, '')}=${wanted.port ?? '*'}`
    taking.unmatched(text)
    if (hasWarned) return
    hasWarned = true
    process.emitWarning(text, { code: 'FDPASS_LISTEN_UNMATCHED' })
  }
  // Not an 'error' listener, with which the error of a program without one would pass unnoticed.
  monitored.once(errorMonitor, explain)
  server.once('listening', report)
}

/** Prepares a server to be drained, until it is closed. */
export function trackServer(server: Server, drains: Map<Server, ServerDrain>): void {
  if (drains.has(server)) return
  const drain = new ServerDrain(server)
  drains.set(server, drain)
  server.once('close', () => {
    drain[Symbol.dispose]()
    drains.delete(server)
  })
}

/** Returns whether one of the servers that have taken a source serves connections. A program that looks for a free port listens without. */
export function isServed(
  takers: Iterable<{ readonly server: Server }>,
  drains: ReadonlyMap<Server, ServerDrain>
): boolean {
  const own = (server: Server) => (drains.has(server) ? 1 : 0) // the listener of its drain
  return [...takers].some(({ server }) => server.listenerCount('connection') > own(server))
}
