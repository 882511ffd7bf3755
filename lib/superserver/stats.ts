import type { SuperserverStats } from './service.ts'

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
