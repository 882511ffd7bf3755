import type { ListenSource } from '../socket/internal.ts'
import type { ListenAlias, ReadyCondition } from './passed-socket.ts'

/** A resource limit of setrlimit(2): a number for both limits, or the soft and the hard limit. */
export type ResourceLimit = number | readonly [soft: number, hard: number]

/** Options of one service of a superserver. */
export interface ServiceOptions {
  /** The socket or sockets to listen on. */
  listen: ListenSource | readonly ListenSource[]
  /**
   * For `preload`: what the program itself listens on in the place of each `listen` source, in their order. A number is a port, `'*'` is
   * whatever it listens on first, and null the source's own port or path (default). With `listen: 'tcp:80', listenAs: 3000` a program that
   * listens on port 3000 gets the connections of port 80.
   */
  listenAs?: ListenAlias | readonly (ListenAlias | null)[] | undefined
  /**
   * The path or URL of a Node module to run as workers. The module receives its connections by `connections()` or `serve()`; with `preload`,
   * any server does.
   */
  module?: string | URL | undefined
  /**
   * Import `fdpass/listen` before `module` (default false): a program that listens on the port or path of a source by itself, with
   * `server.listen()`, gets its connections. It needs no changes, and Node.
   */
  preload?: boolean | undefined
  /**
   * For `preload`: when a worker is ready, `'listening'` (default), or `'message'`: when its program has also called `process.send('ready')`,
   * as programs do for PM2's `wait_ready`.
   */
  ready?: ReadyCondition | undefined
  /** The arguments of `module`. */
  args?: readonly string[] | undefined
  /** Node's own arguments for `module` (default: those of this process, without `--eval` and `--print`; on Deno `run --allow-all`). */
  execArgv?: readonly string[] | undefined
  /** A program instead of `module`: the path of its executable, which is not searched for in PATH, and its arguments. */
  command?: readonly string[] | undefined
  /**
   * How the processes are run:
   *
   * - `'workers'` (default for `module`): several long-lived processes that speak the protocol of PROTOCOL.md
   * - `'nowait'` (default for `command`): a process for each connection, which is its descriptors 0, 1 and 2
   * - `'wait'` (default for `command` with datagram sockets): one process at a time, whose descriptors 0, 1 and 2 are the listener or
   *   the datagram socket. When it has exited, the next event starts another one
   */
  mode?: 'workers' | 'nowait' | 'wait' | undefined
  /**
   * What workers receive:
   *
   * - `'connection'` (default): single connections; each goes to the worker with the fewest
   * - `'listener'`: the listener, from which workers accept themselves. This is faster, but connections that a worker has accepted are
   *   lost if it dies, and no limit on connections applies
   */
  handoff?: 'connection' | 'listener' | undefined
  /**
   * For `handoff: 'listener'`: open a listener for each worker on the same TCP port, and have the kernel distribute connections over
   * them, by a hash of their addresses (default false; Linux). A connection wakes one worker only, and workers share no queue. The superserver
   * keeps these listeners, so the replacement of a worker has the queue of the one before; while a worker is missing, the others
   * get its connections. Two services or programs of one user can have a port together: the kernel does not refuse a second one.
   */
  reusePort?: boolean | undefined
  /** The number of workers (default: `os.availableParallelism()`). */
  workers?: number | undefined
  /** The user that processes run as: a name or a uid (default: the user of this process). Only root can choose another user. */
  user?: string | number | undefined
  /** The group that processes run as: a name or a gid (default: the group of `user` in the user database). */
  group?: string | number | undefined
  /** The supplementary groups of processes, if `user` or `group` is given (default: none). */
  groups?: readonly (string | number)[] | undefined
  /** The file mode creation mask of processes (default: that of this process). */
  umask?: number | undefined
  /** The working directory of processes, which `user` must be able to enter (default: that of this process). */
  cwd?: string | undefined
  /**
   * The environment of processes (default: that of this process, without a service manager's variables for this process). With `user`, `HOME`,
   * `USER`, `LOGNAME` and `SHELL` are that user's, unless `env` has them.
   */
  env?: Readonly<Record<string, string | undefined>> | undefined
  /**
   * The resource limits of each process, by their names in lower case: `{ nofile: 1024, core: [0, 0] }`. `Infinity` (in a file
   * `"unlimited"`) is no limit. By default processes inherit the limits of this process; Node raises its own `nofile` limit to the
   * hard limit.
   */
  rlimits?: Readonly<Record<string, ResourceLimit>> | undefined
  /** Whether processes cannot gain privileges by executing programs such as sudo (default true; Linux). */
  noNewPrivileges?: boolean | undefined
  /** The length of the accept queue (default 511). The kernel limits it further. */
  backlog?: number | undefined
  /** The permissions of a Unix domain socket's file, such as 0o660 (default: 0o777 without the bits of the umask). */
  socketMode?: number | undefined
  /** The owner of a Unix domain socket's file, a name or a uid (default: the user of this process). Only root can choose another one. */
  socketOwner?: string | number | undefined
  /** The group of a Unix domain socket's file, a name or a gid (default: the group of this process, or of the folder). */
  socketGroup?: string | number | undefined
  /** The most simultaneous connections (default: no limit but that of the descriptor table). Further connections wait in the accept queue. */
  maxConnections?: number | undefined
  /** The most simultaneous connections of one worker (default: no limit). Further connections wait. */
  maxPerWorker?: number | undefined
  /**
   * The most simultaneous connections of one client, which is an IP address or a local user (default: no limit). Further connections
   * are closed immediately.
   */
  maxPerClient?: number | undefined
  /**
   * The number of connections after which a worker is replaced (default: no limit). Each worker has its own, up to a tenth less, so that they
   * are not replaced all at once.
   */
  maxServed?: number | undefined
  /**
   * The memory in bytes beyond which a worker is replaced: its resident set, which is checked every second (default: no limit; Linux).
   * The worker's own connections are finished.
   */
  maxMemory?: number | undefined
  /** The most processes that `nowait` and `wait` start within a minute (default 256, as inetd). Then the service pauses. */
  maxSpawns?: number | undefined
  /** The length of that pause, in milliseconds (default 10,000). Connections wait in the accept queue in the meantime. */
  pause?: number | undefined
  /** The time within which a worker must become ready, in milliseconds (default 30,000). Then it is killed. */
  readyTimeout?: number | undefined
  /**
   * The time within which a worker must acknowledge a connection, in milliseconds (default 30,000). A worker that exceeds it is killed,
   * and its unacknowledged connections go to other workers.
   */
  acknowledgeTimeout?: number | undefined
  /**
   * The time within which a process must finish its connections when it is drained, in milliseconds (default 30,000). Then a worker is
   * killed; a program of `nowait` or `wait` continues to run, as with inetd.
   */
  drainTimeout?: number | undefined
}
