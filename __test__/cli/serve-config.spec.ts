import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { askService, begin, folderInPackage, folderWithWorker, installed, startServe } from '../helpers/cli.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { turns } from '../helpers/promises.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

/** A module to preload, with which opening services.json waits for the writer of the FIFO 'hang', if it exists, as on a dead file system. */
const hangingOpen = `import fs, { existsSync, writeSync } from 'node:fs'
  import { syncBuiltinESMExports } from 'node:module'
  const { open } = fs
  fs.open = (path, flags, done) => {
    if (!String(path).endsWith('services.json') || !existsSync('hang')) return open(path, flags, done)
    writeSync(2, 'It hangs\\n')
    open('hang', 'r', done)
  }
  syncBuiltinESMExports()`

onLinux(
  'a file that cannot be read again for a while, or is a FIFO then, keeps serve from no signal [S260]',
  async (t) => {
    for (const hangs of [false, true]) {
      const cwd = folderInPackage()
      const file = join(cwd, 'services.json')
      const path = join(cwd, 'x.sock')
      writeFileSync(join(cwd, 'hook.mjs'), hangingOpen)
      writeFileSync(file, JSON.stringify({ listen: `unix:${path}`, command: ['/bin/cat'], mode: 'nowait' }))
      const env = { ...installed, NODE_OPTIONS: `--import=${join(cwd, 'hook.mjs')}` }
      const running = startServe(t, cwd, ['--config', file], { env })
      await running.printed(/Listening on unix:/)
      if (!hangs) rmSync(file)
      execFileSync('mkfifo', [hangs ? join(cwd, 'hang') : file])
      running.child.kill('SIGHUP')
      await running.printed(hangs ? /It hangs/ : /services\.json.* must come from a regular file/)
      t.is(await askService(path, 'hello'), 'hello')
      running.child.kill('SIGTERM')
      t.is((await running.ended).signal, 'SIGTERM')
    }
  }
)

onLinux(
  'a reload of a file system that does not respond ends at its deadline, serve continues, and no second thread waits [S269]',
  async (t) => {
    const cwd = folderInPackage()
    const [file, hang, path, next] = ['services.json', 'hang', 'x.sock', 'y.sock'].map((name) => join(cwd, name)) as [
      string,
      string,
      string,
      string
    ]
    const configure = (listen: string) =>
      writeFileSync(
        file,
        JSON.stringify({ listen: `unix:${listen}`, command: ['/bin/cat'], mode: 'nowait', readTimeout: 200 })
      )
    writeFileSync(join(cwd, 'hook.mjs'), hangingOpen)
    configure(path)
    const env = { ...installed, NODE_OPTIONS: `--import=${join(cwd, 'hook.mjs')}` }
    const running = startServe(t, cwd, ['--config', file], { env })
    await running.printed(/Listening on unix:/)
    execFileSync('mkfifo', [hang])
    const late = 'fdpass: serve: .*services\\.json: Connection timed out\n'
    for (let times = 1; times <= 3; times++) {
      running.child.kill('SIGHUP')
      await running.printed(new RegExp(`(${late}[^]*){${times}}`))
      t.is(await askService(path, 'hello'), 'hello')
    }
    configure(next)
    const writer = await open(hang, 'w') // the first reading goes on
    await writer.close()
    rmSync(hang)
    for (let answer = ''; answer !== 'hello';) {
      running.child.kill('SIGHUP') // again, as a slow machine can exceed the deadline
      await turns(100)
      answer = await askService(next, 'hello').catch((error: NodeJS.ErrnoException) => error.code!)
    }
    running.child.kill('SIGTERM')
    const { stderr } = await running.ended
    t.is(stderr.match(/It hangs/g)!.length, 1, stderr)
  }
)

onLinux(
  'serve reads standard input and a process substitution once, skips a byte order mark, and reads 1 MiB at most [S260]',
  async (t) => {
    const cwd = folderWithWorker()
    const config = JSON.stringify({ listen: `unix:${join(cwd, 'x.sock')}`, module: 'worker.mjs', workers: 1 })
    writeFileSync(join(cwd, 'bom.json'), `\uFEFF${config}`)
    const ways = ['--config bom.json', '--config - < bom.json', '--config <(cat bom.json)', '--config -']
    for (const way of ways) {
      const running = begin(t, 'bash', ['-c', `exec fdpass serve ${way}`], {
        cwd,
        ...(way === '--config -' && { input: `\uFEFF${config}` }) // the others close the pipe unread
      })
      await running.printed(/Listening on unix:/)
      const first = await askService(join(cwd, 'x.sock'))
      running.child.kill('SIGHUP')
      let next = first
      while (next === first) next = await askService(join(cwd, 'x.sock'))
      running.child.kill('SIGTERM')
      const { signal, stderr } = await running.ended
      t.is(signal, 'SIGTERM')
      t.is(
        stderr.replaceAll(/.*Worker \d+ is ready\n/g, ''),
        `fdpass: serve: Listening on unix:${join(cwd, 'x.sock')}\n`
      )
    }
    for (const [way, name, problem] of [
      ['--config - < <(head -c 1048577 /dev/zero)', '/dev/stdin', 'must have at most 1048576 bytes'],
      ['--config /dev/zero', '/dev/zero', 'must come from a regular file, a pipe, a socket or a terminal']
    ] as const) {
      const { code, stderr } = await begin(t, 'bash', ['-c', `exec fdpass serve ${way}`]).ended
      t.deepEqual({ code, stderr }, { code: 1, stderr: `fdpass: serve: ${name}: its content ${problem}\n` })
    }
  }
)

onLinux('a signal ends serve while it waits for the writer of a pipe [S260]', async (t) => {
  const cwd = folderInPackage()
  execFileSync('mkfifo', [join(cwd, 'pipe')])
  const running = startServe(t, cwd, ['--config', 'pipe'])
  // It has begun to read when the open of a writer succeeds.
  const writer = await open(join(cwd, 'pipe'), 'w')
  running.child.kill('SIGTERM')
  t.deepEqual(await running.ended, { code: null, signal: 'SIGTERM', stdout: '', stderr: '' })
  await writer.close()
})
