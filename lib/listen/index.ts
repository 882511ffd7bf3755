/**
 * A preload: `node --import fdpass/listen app.js`. A program that listens by itself, with `server.listen()`, gets what was passed to its
 * process in the place of a new listener, and needs no changes: express, fastify, koa, hono, Next and any other server of Node's.
 *
 * - As a worker of `fdpass/superserver`, or of `fdpass serve`, which imports it by itself: the server gets the connections, is ready when it
 *   listens, and is drained when it is replaced.
 * - Started by a service manager with socket activation (`LISTEN_FDS`, of this process): the server listens on the passed sockets. SIGTERM
 *   drains it, unless the program handles that signal.
 *
 * A server gets a passed socket if it listens on the same port or path; a socket of `node:dgram` one of UDP if it binds to the same port.
 * `listenAs` of the superserver, `--listen WHERE=PORT`, or `FDPASS_LISTEN_AS=NAME=PORT` name another one. Other servers listen as ever.
 * `FDPASS_DEBUG=listen` prints what is taken.
 *
 * It does nothing in other processes, in Workers, and in child processes of such a program. It throws ERR_UNSUPPORTED_PLATFORM on a runtime
 * other than Node, if something was passed.
 *
 * @module fdpass/listen
 */
import { isMainThread } from 'node:worker_threads'
import { isWorker } from '../superserver/index.ts'
import { listenOnPassed } from './activation.ts'
import { listenAsWorker } from './worker.ts'

if (isMainThread) {
  if (isWorker) listenAsWorker()
  else if (process.env.LISTEN_PID === String(process.pid)) listenOnPassed()
}
