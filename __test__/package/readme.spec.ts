import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { begin, installed, packageFolder, projectFolder } from '../helpers/cli.ts'
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
  'Pass a file: To a program in another language': [hasPython, 'needs Python 3.9'],
  Channel: [isLinux, 'needs Linux'],
  Broker: [isLinux, 'needs Linux'],
  Superserver: [isLinux, 'needs Linux'],
  'Superserver: Write a worker': [isLinux, 'needs Linux'],
  'inetd programs': [isLinux, 'needs Linux'],
  'Migrating to fdpass: From node:cluster': [isLinux, 'needs Linux'],
  'Migrating to fdpass: From systemd and sd-notify': [
    runs('systemd-socket-activate', '--version'),
    'needs systemd-socket-activate'
  ],
  Restarts: [isLinux, 'needs Linux'],
  Store: [isLinux, 'needs Linux'],
  'Shared memory': [isLinux, 'needs Linux'],
  Peers: [isLinux, 'needs Linux'],
  'D-Bus': [runs('dbus-run-session', '--version'), 'needs dbus-run-session'],
  Wayland: [runs('weston', '--version'), 'needs Weston', weston],
  systemd: [runs('systemd-socket-activate', '--version'), 'needs systemd-socket-activate'],
  Consoles: [hasPython, 'needs Python 3.9']
}

// The runtime on which the examples run, and its executable with arguments: `npm run test:runtimes -- examples` passes them.
const [runtime = 'Node', ...command] = process.argv.slice(2)

/** A section of a page: the text from a heading of level 2 on, or the text above the first one. */
interface Section {
  readonly page: string
  readonly title: string
  readonly link: string
  readonly text: string
}

/** Returns the anchor that a heading has on GitHub. */
function anchorOf(heading: string): string {
  const text = heading.toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, '')
  return text.replaceAll(' ', '-')
}

/** Returns the sections of README and of the guides. */
function sections(): Section[] {
  const pages = ['../../README.md', ...readdirSync('docs/guide').toSorted()]
  return pages.flatMap((page) => {
    const [first, ...others] = readFileSync(join('docs/guide', page), 'utf8').split(/^(?=## )/m)
    const [, subject] = /^# (.*)\n/.exec(first!)!
    return [
      { page, title: subject!, link: page, text: first! },
      ...others.map((text) => {
        const [, heading] = /^## (.*)\n/.exec(text)!
        return { page, title: `${subject}: ${heading}`, link: `${page}#${anchorOf(heading!)}`, text }
      })
    ]
  })
}

const examples = sections()
  .filter(({ text }) => text.includes('```text'))
  .map(({ title, link, text }) => {
    const [, commands] = /```sh\n([^]*?)```/.exec(text)!
    // The line below the output that names the runtimes, where an example does not work on all three.
    const [, printed, runtimes = 'Node or Bun or Deno'] = /```text\n([^]*?)```(?:\n\nNeeds ([\w ]+): )?/.exec(text)!
    const files = [...text.matchAll(/```(?:js|py)\n((?:\/\/|#) ([\w-]+\.\w+)[^]*?)```/g)]
    return { title, link, commands: commands!, printed, runtimes: runtimes.split(' or '), files }
  })

/** The folder whose `node` and `fdpass` run on the runtime; undefined on Node, where those of `installed` do. */
function programsOfRuntime(): string | undefined {
  if (command.length === 0) return undefined
  const folder = temporaryFolder()
  const words = command.map((word) => `'${word}'`).join(' ')
  for (const [name, program] of [
    ['node', ''],
    ['fdpass', `'${resolve(packageFolder, 'dist/lib/cli/main.js')}'`]
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
    const folder = projectFolder(join('readme', runtime, anchorOf(title)))
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

/** The documents in Markdown, as a check-out has them: the reference is generated. */
const documents = [
  '.',
  'docs',
  'docs/guide',
  'docs/internals',
  'docs/proof',
  'bench',
  'tools',
  'packages/usocket'
].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name))
)

/** Returns the text of a document without its code, in which a bracket is no link. */
function prose(path: string): string {
  return readFileSync(path, 'utf8')
    .replaceAll(/^( *)```[^]*?^\1```$/gm, '')
    .replaceAll(/`[^`\n]*`/g, (code) => code.replaceAll(/[[\]]/g, ''))
}

/** Returns the anchors of a document. */
function anchors(path: string): string[] {
  return [...prose(path).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    anchorOf(heading!.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1'))
  )
}

test('Every link between the documents leads to a file, and to a heading of it', (t) => {
  const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as { exports: Record<string, unknown> }
  // What `npm run docs` generates in docs/reference: a page for each module.
  const reference = new Set(Object.keys(exports).map((name) => resolve('docs/reference', `${join('fdpass', name)}.md`)))
  let links = 0
  for (const document of documents) {
    for (const [, target] of prose(document).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^(https?|mailto):/.test(target!)) continue
      links++
      const [path, anchor] = target!.split('#')
      const file = path === '' ? resolve(document) : resolve(dirname(document), path!)
      t.true(existsSync(file) || reference.has(file), `${document}: ${target}`)
      if (anchor !== undefined) t.true(anchors(file).includes(anchor), `${document}: ${target}`)
    }
  }
  t.true(links > 100)
})

test('README links to every guide', (t) => {
  const readme = readFileSync('README.md', 'utf8')
  const missing = readdirSync('docs/guide').filter((name) => !readme.includes(`](docs/guide/${name})`))
  t.deepEqual(missing, [])
})

test('No line of prose is longer than 160 characters', (t) => {
  const long = documents.flatMap((path) =>
    prose(path)
      .split('\n')
      .filter((line) => line.length > 160 && !/^ *\|/.test(line))
      .map((line) => `${path}: ${line}`)
  )
  t.deepEqual(long, [])
})

test('README has at most 200 lines, ARCHITECTURE 150 and SECURITY 80', (t) => {
  for (const [path, most] of [
    ['README.md', 200],
    ['ARCHITECTURE.md', 150],
    ['SECURITY.md', 80]
  ] as const) {
    t.true(readFileSync(path, 'utf8').split('\n').length <= most + 1, path)
  }
})

test('The diagram in ARCHITECTURE shows which room imports which: each arrow is an import, and each import follows from arrows', (t) => {
  const [, diagram] = /```mermaid\n(flowchart[^]*?)```/.exec(readFileSync('ARCHITECTURE.md', 'utf8'))!
  const arrows = new Map<string, Set<string>>()
  for (const line of diagram!.split('\n').slice(1)) {
    const groups = line.split('-->').map((group) => group.split('&').map((room) => room.replace(/\[.*/, '').trim()))
    for (const [index, to] of groups.entries()) {
      for (const from of groups[index - 1] ?? []) arrows.set(from, new Set([...(arrows.get(from) ?? []), ...to]))
    }
  }
  const reachable = (room: string): Set<string> =>
    new Set([...(arrows.get(room) ?? [])].flatMap((to) => [to, ...reachable(to)]))
  const rooms = readdirSync('lib')
  for (const room of rooms) {
    const texts = readdirSync(join('lib', room), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => readFileSync(join('lib', room, name), 'utf8'))
    const names = [...texts.join('\n').matchAll(/from '(?:(?:\.\.\/)+|fdpass\/)([a-z-]+)(?:\/[^']*)?'/g)].map(
      ([, name]) => name!
    )
    const imported = new Set(names.filter((name) => rooms.includes(name) && name !== room))
    for (const name of imported) t.true(reachable(room).has(name), `${room} imports ${name}`)
    for (const name of arrows.get(room) ?? []) t.true(imported.has(name) || name === 'binding', `${room} --> ${name}`)
  }
  t.true(arrows.size >= rooms.length)
})
