import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { connect } from 'node:net'
import { constants } from 'node:os'
import type { ExecutionContext } from 'ava'
import { type ServiceOptions, superserve } from 'fdpass/superserver'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { until } from '../helpers/inetds.ts'
import { fixturePath } from '../helpers/processes.ts'

const NOBODY = 65_534
const isRoot = process.getuid?.() === 0
const module = fixturePath('superserver-worker')
/** Whether another user can read the worker's module, and execute this Node. */
const isReadable =
  isRoot && spawnSync(process.execPath, ['--check', module], { uid: NOBODY, gid: NOBODY, cwd: '/' }).status === 0
const asRoot = onlyIf(isLinux && isReadable, 'needs root on Linux, and a folder that others can read')

/** Starts a worker with options, and resolves to its report. */
async function tell(t: ExecutionContext, options: Partial<ServiceOptions>): Promise<Record<string, unknown>> {
  const server = await superserve({
    listen: 'tcp:127.0.0.1:0',
    module,
    args: ['rights'],
    workers: 1,
    user: 'nobody',
    cwd: '/',
    signals: false,
    ...options
  })
  t.teardown(() => server.close({ timeout: 0 }))
  const { port } = server.addresses[0]!.address as { port: number }
  const socket = connect(port, '127.0.0.1')
  let text = ''
  socket.setEncoding('utf8').on('data', (part: string) => (text += part))
  await once(socket, 'close')
  return JSON.parse(text) as Record<string, unknown>
}

const all = (id: number) => Array.from({ length: 4 }, () => id).join('\t')

asRoot(
  'a worker of a privileged superserver is not root, has no group and no capability, and can gain none [S48]',
  async (t) => {
    const worker = await tell(t, {})
    t.is(worker.Uid, all(NOBODY))
    t.is(worker.Gid, all(NOBODY))
    t.is(worker.Groups, '')
    t.deepEqual(worker.capabilities, [0, 0, 0, 0])
    t.is(worker.NoNewPrivs, '1')
    t.is(worker.becomesRoot, 'EPERM')
  }
)

asRoot('a worker serves a privileged port, and cannot bind one [S51]', async (t) => {
  const worker = await tell(t, { listen: 'tcp:127.0.0.1:83' })
  t.is(worker.Uid, all(NOBODY))
  t.is(worker.binds, 'EACCES')
})

asRoot('a worker cannot signal or trace the superserver, nor read its memory [S50]', async (t) => {
  const worker = await tell(t, {})
  t.is(worker.signals, 'EPERM')
  t.is(worker.asks, 'EPERM')
  t.is(worker.readsMemory, 'EACCES')
  t.is(worker.readsEnvironment, 'EACCES')
  t.is(worker.seesDescriptors, 'EACCES')
  if (hasPython) t.is(worker.traces, `${constants.errno.EPERM}`)
  t.is(worker.session, worker.pid) // a session of its own: no terminal's signals
})

/** Returns whether a thread of this process closes descriptors. */
function isClosing(id: string): boolean {
  try {
    return readFileSync(`/proc/self/task/${id}/comm`, 'utf8') === 'fdpass-close\n'
  } catch {
    return false // it has ended
  }
}

asRoot('a connection of a worker of another user is closed on another thread [S272]', async (t) => {
  await tell(t, {})
  await t.notThrowsAsync(until(() => readdirSync('/proc/self/task').some(isClosing)))
})

asRoot('a worker inherits its channel and standard output and error, and no other descriptor [S49]', async (t) => {
  const worker = await tell(t, {})
  const inherited = worker.inherited as Record<string, string>
  t.is(inherited[0], '/dev/null')
  t.is(inherited[3], 'socket:[N]')
  // Node's own: event polls, its wake-ups, /dev/null. No socket, such as the listener, and no file.
  const others = Object.entries(inherited).filter(([number]) => Number(number) > 3)
  const own = /^anon_inode:|^pipe:|^\/dev\/null$|^\/proc\/N\/fd$/
  t.deepEqual(
    others.filter(([, what]) => !own.test(what)),
    []
  )
})

asRoot('a worker inherits nothing that its superserver has open for programs to inherit [S49]', async (t) => {
  // Node opens nothing that is inherited; its parent may have.
  const shell = `exec 8</etc/passwd 9</etc/group; exec "$0" "$@"`
  const program = `
    import { readdirSync, readlinkSync } from 'node:fs'
    import { superserve } from 'fdpass/superserver'
    const linksOf = (pid) => readdirSync('/proc/' + pid + '/fd').filter((fd) => fd > 2)
      .map((fd) => readlinkSync('/proc/' + pid + '/fd/' + fd))
    const options = { listen: 'tcp:127.0.0.1:0', module: process.argv[1], args: ['rights'], workers: 1, user: 'nobody', cwd: '/' }
    const server = await superserve(options)
    const open = readdirSync('/proc/self/fd').filter((fd) => fd === '8' || fd === '9')
    console.log(JSON.stringify([open, linksOf(server.stats().workers[0].pid)]))
    await server.close({ timeout: 0 })`
  const node = [process.execPath, '--input-type=module', '--eval', program, module]
  const { stdout } = spawnSync('sh', ['-c', shell, ...node], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  const [open, links] = JSON.parse(stdout) as [string[], string[]]
  t.deepEqual(open.toSorted(), ['8', '9'])
  t.deepEqual(
    links.filter((link) => link.startsWith('/etc/')),
    []
  )
})

asRoot('a worker has the groups, umask, directory and limits that it is given', async (t) => {
  const worker = await tell(t, {
    group: 'daemon',
    groups: ['bin', 3],
    umask: 0o027,
    cwd: '/tmp',
    rlimits: { nofile: [333, 444], core: 0, stack: Infinity }
  })
  t.is(worker.Gid, all(1))
  t.is(worker.Groups, '2 3')
  t.is(worker.umask, 0o027)
  t.is(worker.cwd, '/tmp')
  // Node raises the soft limit to the hard one.
  t.regex(worker.limits as string, /^Max open files +444 +444 /m)
  t.regex(worker.limits as string, /^Max core file size +0 +0 /m)
  t.regex(worker.limits as string, /^Max stack size +unlimited +unlimited /m)
})

asRoot('a worker may gain rights where noNewPrivileges is false [S101]', async (t) => {
  t.is((await tell(t, { noNewPrivileges: false })).NoNewPrivs, '0')
})

asRoot(
  'a superserver that is not root cannot start workers as another user, and reports which call failed',
  async (t) => {
    const program = `
    import { superserve } from 'fdpass/superserver'
    const start = (options) => superserve({ listen: 'tcp:127.0.0.1:0', command: ['/bin/true'], mode: 'workers', ...options })
    for (const options of [{ user: 'root' }, { group: 'root' }, { user: 'daemon' }])
      await start(options).catch(({ code, syscall }) => console.log(code, syscall))
    await start({ rlimits: { nofile: 2 ** 40 } }).catch(({ code, syscall }) => console.log(code, syscall))
    await start({ cwd: '/root' }).catch(({ code, syscall, path }) => console.log(code, syscall, path))`
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
      uid: NOBODY,
      gid: NOBODY,
      encoding: 'utf8'
    })
    const lines = ['EPERM setgroups', 'EPERM setgroups', 'EPERM setgroups', 'EPERM setrlimit', 'EACCES chdir /root', '']
    t.is(stdout, lines.join('\n'))
  }
)
