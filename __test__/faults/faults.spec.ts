import test from 'ava'
import { capabilities } from 'fdpass'
import { onlyIf } from '../helpers/conditions.ts'
import { Runner, canInject, describe, measure, plan, scenarios, tryFault } from './driver.ts'

const withCompiler = onlyIf(canInject(), 'needs cc, and glibc', test.serial)

/** The sample is the same each time; `npm run test:faults` takes others, and more. */
const SEED = 1

/** How many faults of each scenario are tried, and of each of those below. */
const SAMPLE = 8

/** What once went wrong: by scenario, the calls, and their errors. */
const known: Readonly<Record<string, readonly (readonly [call: string, error: string])[]>> = {
  // Pending operations were never woken again (thread back end).
  pairs: [
    ['epoll_ctl', 'ENOMEM'],
    // libuv's handle was freed while its loop knew it (uv back end).
    ['fcntl(F_SETFL)', 'EPERM']
  ],
  // Half a message was followed by the next one.
  full: [['sendmsg', 'ENOMEM']],
  // The process ended by a panic.
  connections: [['flock', 'EINTR']],
  // The error had no code of the system, and descriptors were left behind.
  descriptors: [
    ['pthread_create', 'EAGAIN'],
    ['epoll_create1', 'EMFILE'],
    ['uv_async_init', 'EMFILE']
  ],
  // A request whose answer could not be sent waited for ever.
  broker: [
    ['sendmsg', 'ENOMEM'],
    // A client that could not read the peer's credentials left its connection open.
    ['getsockopt', 'EBADF'],
    // A socket that one object gave up for another one had no owner in between, and stayed open.
    ['uv_poll_init', 'EEXIST']
  ],
  takeover: [
    ['uv_poll_init', 'EEXIST'],
    ['stat', 'ENOMEM'],
    ['recvmsg', 'EBADF']
  ],
  helper: [['getsockopt', 'EBADF']],
  // 'UnknownErrno'; a worker that exited without a report; one whose exit was not noticed.
  workers: [
    ['sendmsg', 'ETOOMANYREFS'],
    ['fork', 'EAGAIN'],
    ['epoll_ctl', 'ENOSPC'],
    ['uv_poll_init', 'ENOSPC']
  ],
  programs: [['fork', 'EAGAIN']],
  // A pipe that the reactor could not watch was read as a file: reading an empty one failed with EAGAIN.
  systemd: [['fcntl(F_SETFL)', 'EPERM']]
}

for (const scenario of scenarios) {
  withCompiler(`${scenario}: failed system calls are retried or reported, and nothing stays open`, async (t) => {
    const runner = new Runner(scenario, capabilities().backend)
    t.teardown(() => runner.close())
    const baseline = await measure(scenario, runner, 2)
    const faults = plan(baseline, SEED).slice(0, SAMPLE)
    for (const [call, error] of known[scenario] ?? []) {
      const found = plan(baseline, SEED, call).filter((fault) => fault.error === error && fault.times === 1)
      faults.push(...found.slice(0, SAMPLE))
    }
    const reached: string[] = []
    for (const fault of faults) {
      const { verdict, outcome } = await tryFault(runner, baseline, fault)
      t.is(verdict.kind === 'failed' ? verdict.why : '', '', `${describe(fault)} (${outcome.place})`)
      if (verdict.kind !== 'not reached') reached.push(verdict.kind)
    }
    t.true(reached.length > faults.length / 2, `${reached.length} of ${faults.length} calls were made`)
  })
}
