/** The state of a process of a service. */
export interface WorkerState {
  /** The service's name. */
  readonly service: string
  /** The process's pid. */
  readonly pid: number
  /**
   * Of a worker: `'starting'` until it is ready, and `'draining'` while it finishes its last connections. Of a program of `nowait` or
   * `wait`, which does not report that it is ready: `'running'`.
   */
  readonly state: 'starting' | 'ready' | 'draining' | 'running'
  /** The number of its connections; null if it accepts connections itself. */
  readonly connections: number | null
  /** The number of its connections that it has not acknowledged. */
  readonly unacknowledged: number
}

/** Counters since the start. Connections that workers accept themselves are not counted. */
export interface ConnectionCounters {
  /** Connections accepted. */
  accepted: number
  /** Connections that a worker has acknowledged, or for which a program was started. */
  acknowledged: number
  /** Connections that ended normally: the worker reported the end, or the program exited. */
  completed: number
  /**
   * Connections of a worker that died after it had acknowledged them; they were reset (TCP) or closed. Also connections for which
   * the program could not be executed.
   */
  lost: number
  /** Connections closed immediately, because their client had reached `maxPerClient` or every worker returned them. */
  refused: number
  /** Connections reassigned, because a worker died before it acknowledged them or returned them. */
  handedOn: number
  /** Processes started. */
  spawned: number
}

/** Statistics of a superserver. */
export interface SuperserverStats extends ConnectionCounters {
  /** Connections that workers or programs hold now. */
  active: number
  /** Connections that were accepted and wait for a worker or program. */
  waiting: number
  /** The running processes. */
  workers: WorkerState[]
}

const zero: SuperserverStats = {
  accepted: 0,
  acknowledged: 0,
  completed: 0,
  lost: 0,
  refused: 0,
  handedOn: 0,
  spawned: 0,
  active: 0,
  waiting: 0,
  workers: []
}

function add(sum: SuperserverStats, part: SuperserverStats): SuperserverStats {
  return {
    accepted: sum.accepted + part.accepted,
    acknowledged: sum.acknowledged + part.acknowledged,
    completed: sum.completed + part.completed,
    lost: sum.lost + part.lost,
    refused: sum.refused + part.refused,
    handedOn: sum.handedOn + part.handedOn,
    spawned: sum.spawned + part.spawned,
    active: sum.active + part.active,
    waiting: sum.waiting + part.waiting,
    workers: [...sum.workers, ...part.workers]
  }
}

/** Returns the sum of the statistics of several services. */
export function sumOf(all: readonly SuperserverStats[]): SuperserverStats {
  return all.reduce(add, { ...zero, workers: [] })
}

/** Returns the counters of a service's state; zeros without a state. */
export function countersOf(state?: Partial<Counters>): Counters {
  const { accepted = 0, acknowledged = 0, completed = 0, lost = 0 } = state ?? {}
  const { refused = 0, handedOn = 0, active = 0, waiting = 0 } = state ?? {}
  return { accepted, acknowledged, completed, lost, refused, handedOn, active, waiting }
}

type Counters = Omit<SuperserverStats, 'spawned' | 'workers'>
