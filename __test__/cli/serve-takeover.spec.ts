import { once } from 'node:events'
import { existsSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { takeover } from 'fdpass/takeover'
import {
  answerOf,
  askService,
  dial,
  fdpass,
  folderInPackage,
  folderWithWorker,
  startServe,
  workerProgram
} from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

/** Sends requests until its signal is aborted; resolves to the count of answers by process. */
function keepAsking(to: string | number): { readonly end: () => Promise<ReadonlyMap<string, number>> } {
  const ending = new AbortController()
  const answers = new Map<string, number>()
  const askers = Array.from({ length: 4 }, async () => {
    while (!ending.signal.aborted) {
      const [who = ''] = (await askService(to, 'request')).split(' ')
      answers.set(who, (answers.get(who) ?? 0) + 1)
    }
  })
  return {
    async end() {
      ending.abort()
      await Promise.all(askers)
      return answers
    }
  }
}

const listenerWorker = `
import { createServer } from 'node:net'
import { listeners } from 'fdpass/superserver'
const servers = []
for await (const { fd } of listeners()) {
  const server = await fd.toServer({ allowHalfOpen: true })
  servers.push(server)
  server.on('connection', (socket) => {
    socket.on('error', () => {})
    let asked = ''
    socket.setEncoding('utf8').on('data', (data) => {
      asked += data
      if (data.includes('begin')) socket.write('begun')
    })
    socket.on('end', () => socket.end(process.argv[2] + ' ' + process.pid + ' ' + asked))
  })
}
for (const server of servers) server.close()
`

/** Programs that answer with the version that serves; those that receive 'begin' answer at once, and go on. */
const served: Readonly<Record<string, (cwd: string, version: string) => readonly string[]>> = {
  'a program for each connection': (_cwd, version) => [
    '--',
    'sh',
    '-c',
    `read -r text; case $text in *begin*) printf begun; IFS= read -r rest; text="$text$rest";; esac; echo "${version} $text"`
  ],
  'workers that get connections': (cwd, version) => {
    writeFileSync(join(cwd, 'worker.mjs'), workerProgram.replace("process.pid + ' '", "process.argv[2] + ' '"))
    return ['--workers', '2', '--', 'worker.mjs', version]
  },
  'workers that get the listener': (cwd, version) => {
    writeFileSync(join(cwd, 'listener.mjs'), listenerWorker)
    return ['--workers', '2', '--handoff', 'listener', '--', 'listener.mjs', version]
  }
}

for (const [kind, programOf] of Object.entries(served)) {
  for (const where of ['unix:./x.sock', 'tcp:127.0.0.1:0']) {
    onLinux(`serve --takeover refuses nobody while the next one takes over: ${kind}, ${where}`, async (t) => {
      const cwd = folderInPackage()
      const start = async (version: string) => {
        const args = ['--takeover', './place', '--listen', where, ...programOf(cwd, version)]
        const running = startServe(t, cwd, args)
        const [, port] = await running.printed(/Listening on (?:unix:.*|tcp:127\.0\.0\.1:(\d+))\n/)
        return { running, to: port === undefined ? join(cwd, 'x.sock') : Number(port) }
      }
      let { running, to } = await start('v0')
      const asking = keepAsking(to)
      for (let version = 1; version <= 3; version++) {
        const long = dial(to)
        long.setEncoding('utf8').write('begin\n')
        t.is((await once(long, 'data'))[0], 'begun')
        const next = await start(`v${version}`)
        t.is(next.to, to)
        await running.printed(/^fdpass: serve: Another process has taken over\n/m)
        t.is(running.child.exitCode, null) // it finishes what is open
        let answered = await askService(to, 'now')
        if (kind === 'workers that get the listener') {
          // A worker that accepts itself does so until it is notified.
          const deadline = performance.now() + 10_000
          while (answered.startsWith(`v${version - 1} `)) {
            t.true(performance.now() < deadline)
            answered = await askService(to, 'now')
          }
        }
        t.regex(answered, new RegExp(`^v${version} `))
        long.end(' end\n')
        t.regex(await answerOf(long), new RegExp(`^v${version - 1} .*begin\\s* end\\n$`))
        const { code, signal } = await running.ended
        t.deepEqual({ code, signal }, { code: 0, signal: null })
        running = next.running
      }
      const answers = await asking.end()
      t.deepEqual([...answers.keys()].toSorted(), ['v0', 'v1', 'v2', 'v3'])
      running.child.kill('SIGTERM')
      t.is((await running.ended).signal, 'SIGTERM')
      t.false(existsSync(join(cwd, 'x.sock')))
      t.false(existsSync(join(cwd, 'place')))
    })
  }
}

onLinux('serve --takeover leaves all as it was where the next one does not start', async (t) => {
  const cwd = folderWithWorker()
  writeFileSync(join(cwd, 'broken.mjs'), 'setTimeout(() => process.exit(3), 300)')
  const common = ['--takeover', './place', '--listen', 'unix:./x.sock', '--workers', '1', '--']
  const running = startServe(t, cwd, [...common, 'worker.mjs'])
  await running.printed(/Listening/)
  const asking = keepAsking(join(cwd, 'x.sock'))
  const { code, stderr } = await startServe(t, cwd, [...common, 'broken.mjs']).ended
  t.is(code, 1)
  t.regex(stderr, /^fdpass: serve: A worker ended with code 3 before it was ready: .*\n$/)
  t.is((await fdpass(t, ['serve', ...common.slice(0, 5), '--nonsense'], { cwd })).code, 2)
  t.regex(await askService(join(cwd, 'x.sock'), 'still'), / still$/)
  t.is((await asking.end()).size, 1)
  running.child.kill('SIGTERM')
  t.is((await running.ended).signal, 'SIGTERM')
})

onLinux('serve --takeover takes over from, and is followed by, a process of fdpass/takeover', async (t) => {
  const cwd = folderInPackage()
  const path = join(cwd, 'place')
  const listen = { web: { path: join(cwd, 'x.sock'), mode: 0o600 } }
  using first = await takeover({ path, listen })
  await first.ready()
  const args = ['--json', '--takeover', path, '--listen', 'unix:./x.sock', '--socket-mode', '600', '--backlog', '9']
  const running = startServe(t, cwd, [...args, '--', 'sh', '-c', 'echo superserver'])
  await running.printed(/"event":"listening"/)
  t.is((await first.superseded).credentials.pid, running.child.pid ?? null)
  first.listeners.web!.closeSync()
  t.is(await askService(join(cwd, 'x.sock')), 'superserver\n')
  using last = await takeover({ path, listen })
  await last.ready()
  const { code, stdout, stderr } = await running.ended
  t.deepEqual({ code, stderr }, { code: 0, stderr: '' })
  t.true(stdout.endsWith('{"event":"superseded"}\n'), stdout)
  const server = createServer((socket) => socket.end('last'))
  void last.serve(server, 'web')
  t.is(await askService(join(cwd, 'x.sock')), 'last')
  t.is(statSync(join(cwd, 'x.sock')).mode & 0o777, 0o600)
})

onLinux('A signal ends serve at once when the next one has taken over, by that signal', async (t) => {
  const cwd = folderWithWorker()
  const start = async () => {
    const args = ['--takeover', './place', '--listen', 'unix:./x.sock', '--workers', '1', '--', 'worker.mjs']
    const running = startServe(t, cwd, args)
    await running.printed(/Listening/)
    return running
  }
  const first = await start()
  const long = dial(join(cwd, 'x.sock'))
  long.on('error', () => {}).write('begin')
  await once(long, 'data')
  await start()
  await first.printed(/Another process has taken over/)
  first.child.kill('SIGTERM')
  t.is((await first.ended).signal, 'SIGTERM')
  t.regex(await askService(join(cwd, 'x.sock'), 'next'), / next$/)
})
