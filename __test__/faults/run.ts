// Runs one scenario of fault injection: `run.js SCENARIO`, a file of `scenarios/`. For each folder named by a line of standard input it runs the
// scenario once and prints a JSON report: the result of each step, errors that nothing handled, and descriptors left open. Every step ends, or
// the report names the one that hangs and the process exits. The driver is driver.ts.
import { runInEachFolder } from './scenario.ts'

const { run } = (await import(`./scenarios/${process.argv[2]}.js`)) as { run: () => Promise<void> }
await runInEachFolder(run)
