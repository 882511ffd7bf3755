import { constants } from 'node:os'
import type { Abortable } from '../base/index.ts'
import {
  type InspectionArguments,
  inspected,
  inspection,
  stateOf,
  uncloneable,
  onAbort,
  signalOf,
  backlogOf,
  integer,
  optionsOf,
  aborted,
  invalidType,
  invalidValue,
  protocolError
} from '../base/internal.ts'
import { connect } from '../socket/index.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { systemError } from '../native/internal.ts'
import { openReactor } from '../event-loop/internal.ts'
import { flagsOf } from './open-flags.ts'
import { Helper, startHelper } from './helper.ts'
import type { BrokerPolicy } from './policy.ts'
import { parseService } from './service-sockets.ts'
import { RemoteBackend, type Backend } from './backend.ts'
import { type BrokerOffer, settingsOf } from './settings.ts'
import type { RequestMessage } from './request-message.ts'

/** Options of {@link startBroker}. */
export interface StartBrokerOptions extends BrokerOffer, Abortable {
  /**
   * The user that the helper runs as: a name or a uid (default: the caller's user). The helper then has no supplementary
   * groups. Changing the user requires root, and Node or Bun.
   */
  user?: string | number | undefined
  /** The helper's group: a name or a gid (default: the primary group of `user` in the user database). */
  group?: string | number | undefined
  /**
   * The policy that authorizes each request: a function, called in this process; or the path or URL of a module whose
   * default export is the function, called in the helper. By default the helper opens regular files for reading, and
   * directories with `directories`, and grants every service.
   *
   * Both forms protect against malicious requests. A function does not protect against a compromise of this process: an
   * attacker in control of it also controls the function. A module does, because this process can neither trace a helper
   * that runs as another user nor write to its memory.
   */
  allow?: BrokerPolicy | string | URL | undefined
  /**
   * The time within which a helper must be ready, in milliseconds (default 30,000). It has opened its roots and loaded the module of `allow`
   * then. A helper that exceeds it is killed.
   */
  readyTimeout?: number | undefined
}

/** Options of {@link Broker.listen}. */
export interface BrokerListenOptions extends Abortable {
  /** The maximum number of connections that wait to be accepted (default 511). The kernel lowers it to its own limit. */
  backlog?: number | undefined
  /** The permissions of the socket's file, such as 0o666 (default: as the broker's umask leaves them; 0o700 in a helper). */
  mode?: number | undefined
}

const constructorKey = Symbol('constructorKey')
const { ECONNRESET } = constants.errno

/**
 * Opens files and sockets for this process, with rights that this process lacks: in the helper that {@link startBroker}
 * spawned, or in the process that {@link connectBroker} connected to.
 *
 * A pending call keeps the process alive, unless {@link Broker.unref} was called. An idle broker does not.
 */
export class Broker implements AsyncDisposable, Disposable {
  /** @internal */
  protected readonly uncloneable = uncloneable
  readonly #backend: Backend

  /** Not callable: use {@link startBroker} or {@link connectBroker}. */
  private constructor(backend: Backend, key: symbol) {
    if (key !== constructorKey) throw invalidValue('key', 'is private: use startBroker() or connectBroker()')
    this.#backend = backend
  }

  /** @internal */
  static fromBackend(backend: Backend): Broker {
    return new Broker(backend, constructorKey)
  }

  /** The pid of the helper, null while none is running; or the pid of the listening process, null where the kernel does not report it. */
  get pid(): number | null {
    return this.#backend.pid
  }

  /** Whether {@link Broker.close} was called. For {@link connectBroker} also whether the connection has closed. */
  get closed(): boolean {
    return this.#backend.closed
  }

  /**
   * Opens a file beneath the broker's roots: openat2(2) with `RESOLVE_BENEATH` and `RESOLVE_NO_MAGICLINKS`. On kernels
   * without openat2 the path is resolved one component at a time, and symbolic links are not followed.
   *
   * Opening a FIFO, a device or a file with a lease does not block.
   *
   * @param path an absolute path, resolved beneath the deepest root that is a prefix of it; or a relative path, resolved
   *   beneath the first root that contains it
   * @param flags a flag string of `node:fs`, or `O_*` bits (default `'r'`); `O_PATH` and `O_TMPFILE` are not supported
   * @param mode the permissions of a created file (default 0o666), minus the broker's umask. A helper's umask is 0o077
   * @param options `signal`
   * @returns resolves to the descriptor, which the caller owns and closes
   *
   *   Rejects with `EACCES` if the path leads out of its root, no root contains it, the policy denies the request or the
   *   broker lacks the permission; `EAGAIN` if another process has a lease on the file; `ETIMEDOUT` if the file system blocks the
   *   broker for longer than its `openTimeout`; `ENOENT`, `ENOTDIR`, `EISDIR`, `EEXIST`, `ENXIO` and others as open(2); `EINVAL` for
   *   unsupported flags; `ECONNRESET` if the broker died before it replied; ERR_SOCKET_CLOSED; AbortError.
   */
  async open(path: string, flags: string | number = 'r', mode = 0o666, options?: Abortable): Promise<Descriptor> {
    if (typeof path !== 'string') throw invalidType('path', 'of type string', path)
    if (path === '' || path.includes('\0')) throw invalidValue('path', 'must be a path, without a NUL')
    const message: RequestMessage = {
      operation: 'open',
      path,
      flags: flagsOf(flags),
      mode: integer('mode', mode, 0, 0o7777)
    }
    return this.#request(message, signalOf(optionsOf(options)))
  }

  /**
   * Connects to one of the broker's services: connect(2).
   *
   * @param address `'tcp:HOST:PORT'`, `'unix:PATH'`, or a path or abstract address alone. The socket at a path may be of
   *   any type
   * @param options `signal`
   * @returns resolves to the connected socket, in blocking mode, which the caller owns and closes
   *
   *   Rejects with `EACCES` if the address is not among the broker's services or the policy denies the request;
   *   `ECONNREFUSED`, `ENOENT` and others as connect(2); ERR_INVALID_ARG_VALUE; otherwise as {@link Broker.open}.
   */
  async connect(address: string, options?: Abortable): Promise<Descriptor> {
    const { name } = parseService('address', address, 'connect')
    return this.#request({ operation: 'connect', address: name }, signalOf(optionsOf(options)))
  }

  /**
   * Listens on one of the broker's services: bind(2) and listen(2). The file of a Unix socket is created as by
   * `bindListener`, and closing the descriptor does not remove it.
   *
   * @param address as in {@link Broker.connect}; HOST must be an IP address
   * @param options `backlog`, `mode`, `signal`
   * @returns resolves to the listening socket, in blocking mode, which the caller owns and closes
   *
   *   Rejects with `EACCES` if the address is not among the broker's services or the policy denies the request;
   *   `EADDRINUSE` and others as bind(2); otherwise as {@link Broker.open}.
   */
  async listen(address: string, options?: BrokerListenOptions): Promise<Descriptor> {
    const { name } = parseService('address', address, 'listen')
    const { backlog, mode = null } = optionsOf(options) ?? {}
    if (mode !== null) integer('options.mode', mode, 0, 0o777)
    return this.#request({ operation: 'listen', address: name, backlog: backlogOf(backlog), mode }, signalOf(options))
  }

  /** @internal */
  [inspection](...args: InspectionArguments): string {
    return inspected('Broker', () => ({ pid: this.pid, state: stateOf(this) }), args)
  }

  /** Makes pending calls keep the process alive, which is the default. */
  ref(): this {
    this.#backend.keepAlive.referenced = true
    return this
  }

  /** Allows the process to exit while calls are pending. */
  unref(): this {
    this.#backend.keepAlive.referenced = false
    return this
  }

  /** Closes the broker: pending calls reject with ERR_SOCKET_CLOSED, and a helper exits. Does nothing if already closed. */
  close(): void {
    this.#backend.close()
  }

  /** Closes the broker, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Closes the broker; resolves when the helper has exited. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#backend.closeLater()
  }

  async #request(message: RequestMessage, signal: AbortSignal | undefined): Promise<Descriptor> {
    using _pending = this.#backend.keepAlive.acquire()
    const session = await untilAborted(this.#backend.session(), signal)
    try {
      const reply = await session.channel.request(message, null, { signal })
      const [descriptor] = reply.fds
      if (descriptor === undefined) throw protocolError('the broker answered without a descriptor')
      return descriptor
    } catch (error) {
      const { code, syscall } = error as NodeJS.ErrnoException
      // An error that the broker replied with names the operation's system call instead.
      const isLost = (code === 'ECONNRESET' && syscall === 'recvmsg') || (code === 'EPIPE' && syscall === 'sendmsg')
      if (!isLost) throw error
      this.#backend.onSessionLost(session)
      throw code === 'EPIPE' ? systemError(-ECONNRESET, 'sendmsg') : error
    }
  }
}

function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    const abortion = onAbort(signal, () => reject(aborted(signal)))
    promise.then(resolve, reject).finally(() => abortion?.[Symbol.dispose]())
  })
}

/**
 * Starts a broker in a child process, the helper, which keeps only the rights that it needs.
 *
 * The helper cannot gain privileges (`PR_SET_NO_NEW_PRIVS`). It keeps at most the capabilities that open files and bind
 * low ports; with a `user` it has none. It inherits its channel, standard error and a few environment variables that hold
 * no secrets. Processes of its user cannot trace it (Linux). Its umask is 0o077 and its working directory is `/`. It exits
 * when this process exits.
 *
 * If the helper dies, every pending call rejects, and a new helper is spawned with the rights that this process has by
 * then. While helpers die within a second, the restart delay doubles, up to ten seconds. A start that fails rejects
 * the calls that wait for it; the next call retries.
 *
 * @param options `user`, `group`, `roots`, `directories`, `services`, `allow`, `openTimeout`, `readyTimeout`; `signal` aborts the start
 * @returns resolves to the broker, which the caller owns and closes
 *
 *   Rejects with `EPERM` if this process may not change to `user` or `group`; `ENOENT`, `ENOTDIR` or `EACCES` for a root;
 *   the error that importing the module of `allow` throws; `ETIMEDOUT` if the helper is not ready in time, because the module does not
 *   finish loading or a root's file system does not answer; ERR_INVALID_ARG_TYPE; ERR_INVALID_ARG_VALUE;
 *   ERR_OUT_OF_RANGE; AbortError; ERR_UNSUPPORTED_PLATFORM
 *
 * @example
 * ```js
 * import { mkdirSync, writeFileSync } from 'node:fs'
 * import { startBroker } from 'fdpass/broker'
 *
 * mkdirSync('logs', { recursive: true })
 * writeFileSync('logs/today', 'a line')
 * const broker = await startBroker({ roots: ['logs'] }) // as root also `user: 'nobody'`
 * const file = await broker.open('today')
 * console.log(await file.text()) // a line
 * file.closeSync()
 * broker.close()
 * ```
 */
export async function startBroker(options?: StartBrokerOptions): Promise<Broker> {
  openReactor()
  const given = optionsOf(options) ?? {}
  const signal = signalOf(given)
  const helper = new Helper(...settingsOf(given))
  await startHelper(helper, signal)
  return Broker.fromBackend(helper)
}

/**
 * Connects to the broker of another process: the other end of {@link serveBroker}.
 *
 * @param address the address that the broker listens on
 * @param options `signal`
 * @returns resolves to the broker, which the caller owns and closes. After a call rejected with `ECONNRESET`, connect again
 *
 *   Rejects as `connect`.
 */
export async function connectBroker(address: string, options?: Abortable): Promise<Broker> {
  const signal = signalOf(optionsOf(options))
  const socket = await connect(address, { signal })
  try {
    return Broker.fromBackend(new RemoteBackend(socket))
  } catch (error) {
    socket.close()
    throw error
  }
}
