// Runs one scenario of fault injection: `run.js SCENARIO`. For each folder named by a line of standard input it runs the scenario once and prints a
// JSON report: the result of each step, errors that nothing handled, and descriptors left open. Every step ends, or the report names the one that
// hangs and the process exits. The driver is driver.ts.
import { runInEachFolder } from './scenario.ts'
import { channel } from './scenarios/channel.ts'
import { casts, descriptors, handOvers, streams } from './scenarios/descriptors.ts'
import { brokerHelper, brokers, stores, systemd, takeovers } from './scenarios/services.ts'
import { connections, full, pairs } from './scenarios/sockets.ts'
import { programs, workers } from './scenarios/superserver.ts'

const scenarios: Record<string, () => Promise<void>> = {
  pairs,
  full,
  connections,
  descriptors,
  casts,
  channel,
  'hand-over': handOvers,
  broker: brokers,
  helper: brokerHelper,
  store: stores,
  takeover: takeovers,
  workers,
  programs,
  systemd,
  stream: streams
}

await runInEachFolder(scenarios[process.argv[2]!]!)
