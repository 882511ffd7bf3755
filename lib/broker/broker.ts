import { constants } from 'node:os'
import type { Abortable } from '../base/index.ts'
import {
  onAbort,
  signalOf,
  MAX_INT,
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
import { parseService } from './service-address.ts'
import { RemoteBackend, type Backend } from './backend.ts'
import { type BrokerOffer, settingsOf } from './settings.ts'
import type { RequestMessage } from './request-message.ts'

/** Options of {@link startBroker}. */
export interface StartBrokerOptions extends BrokerOffer, Abortable {
  /**
   * Whom the helper runs as: a name, or a number (default: the caller, as it is). It has no supplementary groups then.
   * Taking on another user is root's.
   */
  user?: string | number | undefined
  /** The helper's group: a name, or a number (default: that of `user`, in the user database). */
  group?: string | number | undefined
  /**
   * What is given: a function, which is asked in this process; or the path or URL of a module whose default export is the
   * function, which is asked in the helper. Without it files and directories are opened to be read, and the services given.
   *
   * Against requests that are not what they should be, either protects. A function here cannot protect against this very
   * process being taken over, as whoever has done that answers in its place; a module can: this process cannot trace the
   * helper of another user, nor write to its memory.
   */
  allow?: BrokerPolicy | string | URL | undefined
}

/** Options of {@link Broker.listen}. */
export interface BrokerListenOptions extends Abortable {
  /** The most connections that wait to be accepted (default 511); the kernel cuts it to its own limit. */
  backlog?: number | undefined
  /** The permissions of a socket's file, such as 0o666. Without it the broker's umask leaves 0o700 in a helper. */
  mode?: number | undefined
}

const constructorKey = Symbol('made')
const { ECONNRESET } = constants.errno

/**
 * Somebody with rights that this process lacks, or is to lack, who opens files and sockets for it: the helper of
 * {@link startBroker}, or a service to which {@link connectBroker} has connected.
 *
 * A call that waits keeps the process alive, unless {@link Broker.unref} was called; the broker by itself does not.
 */
export class Broker implements AsyncDisposable, Disposable {
  readonly #backend: Backend

  /** Use {@link startBroker} or {@link connectBroker}. */
  private constructor(backend: Backend, key: symbol) {
    if (key !== constructorKey) throw invalidValue('key', 'is private: use startBroker() or connectBroker()')
    this.#backend = backend
  }

  /** @internal */
  static fromBackend(backend: Backend): Broker {
    return new Broker(backend, constructorKey)
  }

  /** The process that does it: the helper, null where none runs at the moment; or who listens. */
  get pid(): number | null {
    return this.#backend.pid
  }

  /** Whether this side was closed. */
  get closed(): boolean {
    return this.#backend.closed
  }

  /**
   * Open a file beneath the broker's roots: openat2(2) with `RESOLVE_BENEATH` and `RESOLVE_NO_MAGICLINKS`. Where the
   * kernel lacks that, it goes by component, and no link is followed.
   *
   * A FIFO or a device is opened without waiting.
   *
   * @param path an absolute path, beneath the deepest root that it begins with; or a relative one, beneath the first
   *   root that has it
   * @param flags as in `node:fs`, or `O_*` bits (default `'r'`); `O_PATH` and `O_TMPFILE` are not among them
   * @param mode the permissions of a file that is created (default 0o666), of which the broker's umask takes: a helper
   *   leaves its own user's only
   * @param options `signal`
   * @returns resolves to the descriptor, which is the caller's to close
   *
   *   Rejects with `EACCES` where the path leads out of its root, where no root has it, where the policy says no, and
   *   where the broker itself may not; `ENOENT`, `ENOTDIR`, `EISDIR`, `EEXIST`, `ENXIO`, …, as open(2); `EINVAL` for
   *   flags that are not supported; `ECONNRESET` where the broker died before it answered; ERR_SOCKET_CLOSED; AbortError.
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
    return this.#ask(message, signalOf(optionsOf(options)))
  }

  /**
   * Connect to a service of the broker's: connect(2).
   *
   * @param address `'tcp:HOST:PORT'`, `'unix:PATH'`, or a path or abstract address, of a socket of any type
   * @param options `signal`
   * @returns resolves to the connected socket, in blocking mode, which is the caller's to close
   *
   *   Rejects with `EACCES` where it is not among the broker's services, or the policy says no; `ECONNREFUSED`, `ENOENT`,
   *   …; ERR_INVALID_ARG_VALUE; and as {@link Broker.open}.
   */
  async connect(address: string, options?: Abortable): Promise<Descriptor> {
    const { name } = parseService('address', address, 'connect')
    return this.#ask({ operation: 'connect', address: name }, signalOf(optionsOf(options)))
  }

  /**
   * Listen for a service of the broker's: bind(2) and listen(2). The file of a path is made as by `bindListener`, and is
   * not removed.
   *
   * @param address as in {@link Broker.connect}; of a host its IP address
   * @param options `backlog`, `mode`, `signal`
   * @returns resolves to the listening socket, in blocking mode, which is the caller's to close
   *
   *   Rejects with `EACCES` where it is not among the broker's services, or the policy says no; `EADDRINUSE`, …; and as
   *   {@link Broker.open}.
   */
  async listen(address: string, options?: BrokerListenOptions): Promise<Descriptor> {
    const { name } = parseService('address', address, 'listen')
    const { backlog, mode } = optionsOf(options) ?? {}
    if (backlog !== undefined) integer('options.backlog', backlog, 0, MAX_INT)
    if (mode !== undefined) integer('options.mode', mode, 0, 0o777)
    return this.#ask({ operation: 'listen', address: name, backlog, mode }, signalOf(options))
  }

  /** Let calls that wait keep the process alive, as they do at first. */
  ref(): this {
    this.#backend.keepAlive.referenced = true
    return this
  }

  /** Let the process end although calls wait. */
  unref(): this {
    this.#backend.keepAlive.referenced = false
    return this
  }

  /** Close at once: what waits rejects with ERR_SOCKET_CLOSED, and a helper ends. Nothing happens if it already is. */
  close(): void {
    this.#backend.close()
  }

  /** Close, for `using`. */
  [Symbol.dispose](): void {
    this.close()
  }

  /** Close, and wait for the helper's end. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#backend.closeLater()
  }

  async #ask(message: RequestMessage, signal: AbortSignal | undefined): Promise<Descriptor> {
    using _pending = this.#backend.keepAlive.acquire()
    const session = await untilAborted(this.#backend.session(), signal)
    try {
      const reply = await session.channel.request(message, null, { signal })
      const [descriptor] = reply.fds
      if (descriptor === undefined) throw protocolError('the broker answered without a descriptor')
      return descriptor
    } catch (error) {
      const { code, syscall } = error as NodeJS.ErrnoException
      // An answer's error has the operation's own syscall.
      const isGone = (code === 'ECONNRESET' && syscall === 'recvmsg') || (code === 'EPIPE' && syscall === 'sendmsg')
      if (!isGone) throw error
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
 * Start a broker: a process of its own, the helper, which keeps the rights that it needs and drops the rest.
 *
 * The helper can gain no rights (`PR_SET_NO_NEW_PRIVS`); of root's capabilities it has those at most that open files and
 * take low ports; with a `user` it has none. It inherits the channel and standard error, and little of the environment.
 * It cannot be traced by processes of its user (Linux), its umask is 0o077, its directory `/`. It ends with this process.
 *
 * A helper that dies is an error to every call that waits, and is started again, with the rights that this process has by
 * then; with pauses that double up to ten seconds while it keeps dying within a second. A start that fails rejects the
 * calls that wait for it, and the next call starts it anew.
 *
 * @param options `user`, `group`, `roots`, `services`, `allow`; `signal` ends the start
 * @returns resolves to the broker, which is the caller's to close
 *
 *   Rejects with `EPERM` where this process may not take on `user` or `group`; `ENOENT`, `ENOTDIR`, `EACCES` for a root;
 *   with what importing the module of `allow` throws; ERR_INVALID_ARG_TYPE, ERR_INVALID_ARG_VALUE, ERR_OUT_OF_RANGE;
 *   AbortError; ERR_UNSUPPORTED_PLATFORM
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
 * Connect to what {@link serveBroker} serves.
 *
 * @param address where it listens
 * @param options `signal`
 * @returns resolves to the broker, which is the caller's to close. After `ECONNRESET` connect anew
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
