import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import { onAbort, aborted, RestartBackoff } from '../base/internal.ts'
import { KeepAlive } from '../event-loop/internal.ts'
import { Channel } from '../channel/index.ts'
import { socketpair } from '../socket/index.ts'
import { brokerClosed, type Session, type Backend } from './backend.ts'
import type { BrokerPolicy, BrokerRequest } from './policy.ts'
import type { Settings } from './settings.ts'
import type { SystemError } from '../native/index.ts'
import { MAX_MESSAGE_BYTES } from './request-message.ts'

const program = fileURLToPath(new URL('helper-program.js', import.meta.url))

/** The environment variables that the helper inherits: none of them can hold a secret. */
const variables = ['PATH', 'LD_LIBRARY_PATH', 'LANG', 'TZ', 'FDPASS_BACKEND', 'NAPI_RS_NATIVE_LIBRARY_PATH']

function environment(): NodeJS.ProcessEnv {
  const kept = variables.filter((name) => process.env[name] !== undefined)
  return {
    ...Object.fromEntries(kept.map((name) => [name, process.env[name]])),
    // Makes Electron's executable run as Node.
    ...('electron' in process.versions ? { ELECTRON_RUN_AS_NODE: '1' } : {}),
    // Yarn's Plug'n'Play resolves packages with a module that NODE_OPTIONS preloads.
    ...('pnp' in process.versions && process.env.NODE_OPTIONS !== undefined
      ? { NODE_OPTIONS: process.env.NODE_OPTIONS }
      : {}),
    // The threads of io_uring keep the privileges of the time of its setup (CVE-2024-22017).
    UV_USE_IO_URING: '0'
  }
}

/** The helper process of a broker, which is restarted when it dies. */
export class Helper implements Backend {
  readonly #settings: Settings
  readonly #policy: BrokerPolicy | undefined
  #session: Promise<Session> | undefined
  #child: ChildProcess | undefined
  #channel: Channel | undefined
  #timer: NodeJS.Timeout | undefined
  /** Ends the restart delay. */
  #wake: (() => void) | undefined
  /** When the last helper was started; undefined before the first. */
  #startedAt: number | undefined
  readonly #backoff = new RestartBackoff()
  readonly keepAlive = new KeepAlive((on) => {
    if (on) {
      this.#channel?.ref()
      this.#timer?.ref()
    } else {
      this.#channel?.unref()
      this.#timer?.unref()
    }
  })
  closed = false

  constructor(settings: Settings, policy: BrokerPolicy | undefined) {
    this.#settings = settings
    this.#policy = policy
  }

  get pid(): number | null {
    return this.#child?.pid ?? null
  }

  /** Returns the session of the helper that is running or starting; starts a helper if there is none. */
  session(): Promise<Session> {
    if (this.closed) return Promise.reject(brokerClosed())
    if (this.#session === undefined) {
      const session = this.#start()
      this.#session = session
      session.catch(() => {
        // The next call retries.
        if (this.#session === session) this.#session = undefined
      })
    }
    return this.#session
  }

  /** Restarts the helper after its session was lost. */
  onSessionLost(session: Session): void {
    if (session.isLost) return
    session.isLost = true
    this.#child?.kill('SIGKILL') // its channel has closed, but it may still be running
    this.#child = undefined
    this.#session = undefined
    if (!this.closed) this.session().catch(() => {})
  }

  async #start(): Promise<Session> {
    const delay = this.#startedAt === undefined ? 0 : this.#backoff.next(Date.now() - this.#startedAt)
    if (delay > 0) await this.#sleep(delay)
    if (this.closed) throw brokerClosed()
    this.#startedAt = Date.now()
    const [socket, theirs] = socketpair()
    const channel = new Channel(socket, { maxBytes: MAX_MESSAGE_BYTES, maxFds: 1 })
    this.#channel = channel
    this.keepAlive.update()
    const { identity } = this.#settings
    let child: ChildProcess
    try {
      const ids = identity === undefined ? [] : [`${identity.uid}`, `${identity.gid}`]
      child = spawn(process.execPath, [program, 'restrict', ...ids], {
        cwd: '/',
        env: environment(),
        detached: true, // a terminal's Ctrl-C must not reach it
        stdio: ['ignore', 'ignore', 'inherit', theirs.fd]
      })
    } catch (error) {
      channel.close()
      throw error
    } finally {
      theirs.close()
    }
    child.unref()
    this.#child = child
    const failed = new Promise<never>((_resolve, reject) => child.once('error', reject))
    failed.catch(() => {})
    child.on('error', () => {}) // kill() emits it if the signal is not permitted
    const policy = this.#policy
    if (policy !== undefined) {
      const credentials = socket.peer() // this process's own: it created the pair
      channel.onRequest(async ({ value }) => ({ value: await policy(value as BrokerRequest, credentials) }))
    }
    try {
      await Promise.race([channel.request(this.#settings, null, { timeout: this.#settings.readyTimeout }), failed])
    } catch (error) {
      const hasTimedOut = (error as NodeJS.ErrnoException).syscall === 'request'
      channel.close()
      child.kill('SIGKILL')
      if (this.#child === child) this.#child = undefined
      throw this.closed ? brokerClosed() : hasTimedOut ? notReadyInTime(this.#settings.readyTimeout) : error
    }
    const session: Session = { channel, isLost: false }
    void channel.closed.then(() => this.onSessionLost(session))
    return session
  }

  #sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
      this.#timer = setTimeout(resolve, milliseconds)
      this.keepAlive.update()
    })
  }

  close(): void {
    if (this.closed) return
    this.closed = true
    this.#channel?.close()
    clearTimeout(this.#timer)
    this.#wake?.()
  }

  async closeLater(): Promise<void> {
    const child = this.#child
    this.close()
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.ref()
    await once(child, 'exit')
  }
}

/** Returns the error of a helper that was not ready in time. */
function notReadyInTime(milliseconds: number): SystemError {
  const reason = 'the module of `allow` does not finish loading, or a root does not answer'
  const error = new Error(`ETIMEDOUT: the helper was not ready within ${milliseconds} ms: ${reason}, startBroker`)
  return Object.assign(error, { code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, syscall: 'startBroker' })
}

/** Starts a helper; an abort closes it. */
export async function startHelper(helper: Helper, signal: AbortSignal | undefined): Promise<void> {
  using _abortion = onAbort(signal, () => helper.close())
  using _pending = helper.keepAlive.acquire()
  try {
    await helper.session()
  } catch (error) {
    helper.close()
    throw signal?.aborted === true ? aborted(signal) : error
  }
}
