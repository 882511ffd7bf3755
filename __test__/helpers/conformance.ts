import { setTimeout as delay } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { type FdSource, UnixSocket, pipe, socketpair } from 'fdpass'
import { hasWriter } from './descriptors.ts'
import { type Fixture, fixtureSource, startProgram } from './processes.ts'

/** Starts a scene of `conformance.py`. */
export function play(scene: string, ...args: string[]): Fixture {
  return startProgram('python3', [fixtureSource('conformance.py'), scene, ...args])
}

/** Waits until a pipe has no writing end, in a process or in a message. Resolves to false if it still has one. */
export async function isReleased(read: number): Promise<boolean> {
  for (let wait = 0; wait < 1000 && hasWriter(read); wait++) {
    await delay(20)
    // What is closed while Linux collects is left to the close of another socket (net/unix/garbage.c, gc_in_progress).
    for (const socket of socketpair()) socket.close()
  }
  return !hasWriter(read)
}

/** Each edge of a graph: this socket is sent to that one. */
export type Graph = readonly (readonly [sent: number, to: number])[]

/** Sends receiving ends to each other along the edges of a graph, each twice and with a pipe's end; then closes all. */
export async function release(
  t: ExecutionContext,
  graph: Graph,
  open: () => Promise<{ receiver: FdSource & Disposable; sender: UnixSocket }>
): Promise<void> {
  const [read, write] = pipe()
  read.setBlocking(false)
  const ends = []
  for (let i = 0; i <= Math.max(...graph.flat()); i++) ends.push(await open())
  for (const [sent, to] of graph) {
    const { receiver } = ends[sent]!
    await ends[to]!.sender.send('x', { fds: [receiver, receiver, write] })
  }
  write.closeSync()
  t.true(hasWriter(read.fd), 'it is on its way')
  for (const { receiver, sender } of ends) {
    receiver[Symbol.dispose]()
    sender.close()
  }
  t.true(await isReleased(read.fd))
  read.closeSync()
}
