import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { begin, installed } from '../helpers/cli.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { runs, start } from '../helpers/processes.ts'

/** Starts what an example expects to exist, and returns the environment that describes it. */
type Surroundings = (t: ExecutionContext) => Promise<NodeJS.ProcessEnv>

async function weston(t: ExecutionContext): Promise<NodeJS.ProcessEnv> {
  const env = { XDG_RUNTIME_DIR: temporaryFolder(), WAYLAND_DISPLAY: 'display' }
  const args = ['--backend=headless-backend.so', '--no-config', '--socket=display']
  start(t, 'weston', args, { stdio: 'ignore', env: { ...process.env, ...env } })
  ;(await connectWhenThere(join(env.XDG_RUNTIME_DIR, 'display'))).close()
  return env
}

/** What a machine must have for an example. */
const needs: Record<string, [boolean, string, Surroundings?]> = {
  Messages: [isLinux, 'needs Linux'],
  Broker: [isLinux, 'needs Linux'],
  Superserver: [isLinux, 'needs Linux'],
  Restarts: [isLinux, 'needs Linux'],
  Store: [isLinux, 'needs Linux'],
  Memory: [isLinux, 'needs Linux'],
  Peers: [isLinux, 'needs Linux'],
  'D-Bus': [runs('dbus-run-session', '--version'), 'needs dbus-run-session'],
  Wayland: [runs('weston', '--version'), 'needs Weston', weston],
  systemd: [runs('systemd-socket-activate', '--version'), 'needs systemd-socket-activate'],
  Consoles: [hasPython, 'needs Python 3.9']
}

// The runtime on which the examples run, and its executable with arguments: `npm run test:runtimes -- examples` passes them.
const [runtime = 'Node', ...command] = process.argv.slice(2)

const pages = readdirSync('docs/guide').map((name) => ({
  page: name,
  text: readFileSync(join('docs/guide', name), 'utf8')
}))
const readme = readFileSync('README.md', 'utf8').split(/^(?=## )/m)
const examples = [...readme.map((text) => ({ page: '../../README.md', text })), ...pages]
  .filter(({ text }) => text.includes('```text'))
  .map(({ page, text }) => {
    const [, title] = /^#+ (.*)\n/.exec(text)!
    const [, commands] = /```sh\n([^]*?)```/.exec(text)!
    // The line below the output that names the runtimes, where an example does not work on all three.
    const [, printed, runtimes = 'Node or Bun or Deno'] = /```text\n([^]*?)```(?:\n\nNeeds ([\w ]+): )?/.exec(text)!
    const files = [...text.matchAll(/```(?:js|py)\n((?:\/\/|#) ([\w-]+\.\w+)[^]*?)```/g)]
    const anchor = page === '../../README.md' ? `#${title!.toLowerCase().replaceAll(' ', '-')}` : ''
    return { title: title!, link: page + anchor, commands: commands!, printed, runtimes: runtimes.split(' or '), files }
  })

/** The folder whose `node` and `fdpass` run on the runtime; undefined on Node, where those of `installed` do. */
function programsOfRuntime(): string | undefined {
  if (command.length === 0) return undefined
  const folder = temporaryFolder()
  const words = command.map((word) => `'${word}'`).join(' ')
  for (const [name, program] of [
    ['node', ''],
    ['fdpass', `'${resolve('dist/lib/cli/main.js')}'`]
  ] as const) {
    writeFileSync(join(folder, name), `#!/bin/sh\nexec ${words} ${program} "$@"\n`, { mode: 0o755 })
  }
  return folder
}

const programs = programsOfRuntime()

/** How long an example may take, in milliseconds, before its processes are killed. */
const TIMEOUT = 60_000

for (const { title, commands, printed, runtimes, files } of examples) {
  const [condition, reason, surround] = needs[title] ?? [true, '']
  const works = runtimes.includes(runtime)
  const outcome = works ? 'prints the documented output' : 'fails with ERR_UNSUPPORTED_PLATFORM'
  onlyIf(
    condition,
    reason,
    test.serial
  )(`The documented example ${outcome} on ${runtime}: ${title}`, async (t) => {
    const folder = join('build', 'readme', runtime, title) // inside the package, so that `fdpass` is found by its own name
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    for (const [, text, name] of files) writeFileSync(join(folder, name!), text!)
    const env = { ...installed, ...(await surround?.(t)) }
    if (programs !== undefined) env.PATH = `${programs}:${env.PATH}`
    // The shell leads a process group, so that nothing of an example survives it.
    const example = begin(t, 'sh', ['-ec', commands], {
      cwd: folder,
      env,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe']
    })
    const kill = () => {
      try {
        process.kill(-example.child.pid!, 'SIGKILL')
      } catch {} // all of them have ended
    }
    t.teardown(kill)
    const timer = setTimeout(kill, TIMEOUT)
    t.teardown(() => clearTimeout(timer))
    if (!works) {
      await example.printed(/ERR_UNSUPPORTED_PLATFORM/) // some processes of the example may wait for the one that failed
      kill()
    }
    const { stdout, stderr, code } = await example.ended
    if (works) t.deepEqual({ stdout, code }, { stdout: printed!, code: 0 }, stderr)
    else t.is(stdout, '')
  })
}

test('The guide lists on which runtimes each documented example works', (t) => {
  const head = ['example', 'Node', 'Bun', 'Deno']
  const rows = examples.map(({ title, link, runtimes }) => [
    `[${title}](${link})`,
    ...head.slice(1).map((name) => (runtimes.includes(name) ? 'yes' : 'no'))
  ])
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]!.length)))
  const rule = widths.map((width) => '-'.repeat(width))
  const table = [head, rule, ...rows].map((row) => `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`)
  const guide = readFileSync('docs/guide/runtimes.md', 'utf8')
  const [, listed] = /<!-- examples -->\n\n([^]*?)\n\n<!-- end of examples -->/.exec(guide)!
  t.is(listed, table.join('\n'))
})
