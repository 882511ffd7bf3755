import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { installed } from '../helpers/cli.ts'
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

const guides = readdirSync('docs/guide').map((name) =>
  readFileSync(join('docs/guide', name), 'utf8').slice('# '.length)
)
const examples = [...readFileSync('README.md', 'utf8').split(/^## /m), ...guides].filter((section) =>
  section.includes('```text')
)

for (const section of examples) {
  const title = section.slice(0, section.indexOf('\n'))
  const [condition, reason, surround] = needs[title] ?? [true, '']
  onlyIf(condition, reason)(`The documented example prints the documented output: ${title}`, async (t) => {
    const folder = join('build', 'readme', title) // inside the package, so that `fdpass` is found by its own name
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    for (const [, text, name] of section.matchAll(/```(?:js|py)\n((?:\/\/|#) ([\w-]+\.\w+)[^]*?)```/g)) {
      writeFileSync(join(folder, name!), text!)
    }
    const [, commands] = /```sh\n([^]*?)```/.exec(section)!
    const [, printed] = /```text\n([^]*?)```/.exec(section)!
    const env = { ...installed, ...(await surround?.(t)) }
    const { stdout, status } = spawnSync('sh', ['-ec', commands!], {
      cwd: folder,
      encoding: 'utf8',
      env,
      timeout: 60_000
    })
    t.deepEqual({ stdout, status }, { stdout: printed, status: 0 })
  })
}
