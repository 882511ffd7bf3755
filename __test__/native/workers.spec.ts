import { spawn } from 'node:child_process'
import test from 'ava'
import { fixturePath, finish } from '../helpers/processes.ts'

/** Runs a program whose crash shows in its signal or its exit code. */
function run(name: string, args: readonly string[], options: readonly string[] = []): Promise<string> {
  const all = [...process.execArgv, ...options, fixturePath(name), ...args]
  return finish(spawn(process.execPath, all, { stdio: ['ignore', 'pipe', 'inherit'] }))
}

const ends: Record<string, string> = {
  terminate: 'Workers that are terminated in the middle of operations close all that they held, 50 times [E12]',
  exit: 'Workers that call process.exit() in the middle of operations close all that they held [E12]',
  end: 'Workers that end by themselves with sockets open close all that they held [E12]',
  throw: 'Workers that end with an uncaught exception close all that they held [E12]',
  reject: 'Workers that end with an unhandled rejection close all that they held [E12]',
  transfer: 'two Workers at a time pass descriptors, each with a copy of the package [E12]'
}
for (const [scenario, title] of Object.entries(ends)) {
  test(title, async (t) => {
    t.is(await run('workers', [scenario, scenario === 'terminate' ? '50' : '10']), 'done\n')
  })
}

test('Workers that end in every way leave the main thread its own operations [E12]', async (t) => {
  t.is(await run('workers', ['mixed', '16', 'with-main']), 'done\n')
})

test('the package loaded in one vm context after the other works, and nothing aborts [E13]', async (t) => {
  const options = ['--experimental-vm-modules', '--expose-gc', '--no-warnings']
  t.is(await run('contexts', ['50'], options), 'done\n')
})
