import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import test from 'ava'
import { type BrokerRequest, startBroker } from 'fdpass/broker'
import { begin, contentOf, makeFolder } from '../helpers/brokers.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { newFolder } from '../helpers/descriptors.ts'

const isRoot = process.getuid?.() === 0

const asRoot = onlyIf(isRoot && isLinux, 'needs root on Linux')

const NOBODY = 65_534

async function untilGone(pid: number): Promise<void> {
  for (;;) {
    try {
      process.kill(pid, 0)
    } catch {
      return
    }
    await setTimeout(5)
  }
}

/** The lines of /proc/PID/status, for every thread. */
function statusOf(pid: number): Map<string, Set<string>> {
  const lines = new Map<string, Set<string>>()
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    for (const line of readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8').split('\n')) {
      const [name = '', value = ''] = line.split(':')
      lines.set(name, (lines.get(name) ?? new Set()).add(value.trim()))
    }
  }
  return lines
}

asRoot(
  'the helper runs as its user, in every thread, with no other groups and no capability (needs root) [S43]',
  async (t) => {
    const broker = await begin(t, { user: 'nobody', roots: ['/tmp'] })
    const status = statusOf(broker.pid!)
    const one = (name: string) => [...status.get(name)!].join(', ')
    t.deepEqual(one('Uid').split(/\s+/), Array<string>(4).fill(`${NOBODY}`))
    t.deepEqual([...new Set(one('Gid').split(/\s+/))], [`${NOBODY}`])
    t.is(one('Groups'), '')
    t.is(one('NoNewPrivs'), '1')
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) t.is(BigInt(`0x${one(set)}`), 0n, set)
    t.is(BigInt(`0x${one('CapBnd')}`), 0x4c6n)
    t.is(one('Umask'), '0077')
  }
)

asRoot('another process of the user that the helper runs as cannot look into it (needs root) [S43]', async (t) => {
  const broker = await begin(t, { user: 'nobody', roots: ['/tmp'] })
  const asNobody = { uid: NOBODY, gid: NOBODY }
  // ptrace(2): what asks for the right to trace reads these, too.
  const look = (pid: number) => spawnSync('cat', [`/proc/${pid}/environ`], asNobody).status
  const idle = spawn('sleep', ['60'], asNobody)
  t.teardown(() => idle.kill())
  await once(idle, 'spawn')
  t.is(look(idle.pid!), 0)
  t.is(look(broker.pid!), 1)
})

asRoot('the helper of root keeps the capabilities to open files and take low ports (needs root)', async (t) => {
  const broker = await begin(t, { group: NOBODY })
  const status = statusOf(broker.pid!)
  t.deepEqual([...status.get('CapEff')!], ['0000000000000406'])
  t.deepEqual([...status.get('CapBnd')!], ['0000000000000406'])
  t.regex([...status.get('Gid')!].join(), /^65534\s/)
})

asRoot('the helper has no descriptor and no variable of its caller (needs root) [S43]', (t) => {
  process.env.FDPASS_TEST_SECRET = 'secret'
  // One that is not close-on-exec: Node makes none, other programs do.
  const shell = `exec 9</etc/passwd; exec "$0" "$@"`
  const owner = `import { startBroker } from 'fdpass/broker'; const broker = await startBroker({});
    const { readdirSync, readlinkSync, readFileSync } = await import('node:fs');
    const links = readdirSync('/proc/' + broker.pid + '/fd').map((fd) => readlinkSync('/proc/' + broker.pid + '/fd/' + fd));
    console.log(JSON.stringify([links, readFileSync('/proc/' + broker.pid + '/environ', 'utf8')]))`
  const node = [process.execPath, '--input-type=module', '-e', owner]
  const { stdout } = spawnSync('sh', ['-c', shell, ...node], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  const [links, environ] = JSON.parse(stdout) as [string[], string]
  t.is(links.filter((link) => link.startsWith('socket:')).length, 1)
  t.false(links.includes('/etc/passwd'))
  t.true(
    links.every((link) => /^(?:socket:|pipe:|anon_inode:|\/dev\/null)/.test(link)),
    links.join()
  )
  t.false(environ.includes('FDPASS_TEST_SECRET'))
})

test('a killed helper rejects all pending calls, and is started again', async (t) => {
  const { root } = makeFolder()
  const stuck: BrokerRequest[] = []
  const allow = (request: BrokerRequest) => {
    if (request.operation === 'open' && request.path === 'file') return true
    stuck.push(request)
    return new Promise<boolean>(() => {})
  }
  const broker = await begin(t, { roots: [root], allow })
  for (let round = 0; round < 3; round++) {
    stuck.length = 0
    const calls = Array.from({ length: 20 }, () => broker.open('folder'))
    const settled = Promise.allSettled(calls)
    while (stuck.length < 20) await setTimeout(5)
    const { pid } = broker
    process.kill(pid!, 'SIGKILL')
    const codes = (await settled).map((result) => (result.status === 'rejected' ? result.reason.code : 'opened'))
    t.deepEqual([...new Set(codes)], ['ECONNRESET'])
    t.is(contentOf(await broker.open('file')), 'inside')
    t.not(broker.pid, pid)
  }
})

test('a policy module that does not finish loading ends the start at its deadline, and one that is no file at once [S267] [S268]', async (t) => {
  const folder = newFolder()
  const fifo = join(folder, 'policy.mjs')
  t.is(spawnSync('mkfifo', [fifo]).status, 0)
  for (const allow of [fifo, '/dev/zero'])
    await t.throwsAsync(startBroker({ allow }), { code: 'ERR_INVALID_ARG_VALUE', message: /regular file/ })
  for (const [name, endless] of [
    ['waits', 'await new Promise(() => {})'],
    ['runs', 'for (;;);']
  ] as const) {
    const started = join(folder, name)
    const note = `import { writeFileSync } from 'node:fs'; writeFileSync(${JSON.stringify(started)}, String(process.pid))`
    const allow = new URL(
      `data:text/javascript,${encodeURIComponent(`${note}; ${endless}; export default () => true`)}`
    )
    for (let readyTimeout = 1000; !existsSync(started); readyTimeout *= 2) {
      const error = await t.throwsAsync(startBroker({ allow, readyTimeout }), { code: 'ETIMEDOUT' })
      t.true(error!.message.includes(`the helper was not ready within ${readyTimeout} ms`), error!.message)
    }
    await untilGone(Number(readFileSync(started, 'utf8')))
  }
})

test('what cannot be started rejects', async (t) => {
  await t.throwsAsync(startBroker({ roots: ['/missing/root'] }), { code: 'ENOENT' })
  await t.throwsAsync(startBroker({ roots: ['/etc/passwd'] }), { code: 'ENOTDIR' })
  await t.throwsAsync(startBroker({ user: 'no such user' }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ allow: '/missing.js' }), { code: 'ERR_MODULE_NOT_FOUND' })
  await t.throwsAsync(startBroker({ allow: new URL('data:text/javascript,') }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ services: ['relative'] }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ services: ['tcp:host'] }), { code: 'ERR_INVALID_ARG_VALUE' })
  await t.throwsAsync(startBroker({ roots: 'root' as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(startBroker({ readyTimeout: 0 }), { code: 'ERR_OUT_OF_RANGE', message: /options\.readyTimeout/ })
  await t.throwsAsync(startBroker({ user: {} as never }), { code: 'ERR_INVALID_ARG_TYPE' })
  await t.throwsAsync(startBroker({ signal: AbortSignal.abort() }), { code: 'ABORT_ERR' })
  const controller = new AbortController()
  const started = startBroker({ signal: controller.signal })
  controller.abort()
  await t.throwsAsync(started, { code: 'ABORT_ERR' })
  if (!isRoot) await t.throwsAsync(startBroker({ user: 0 }), { code: 'EPERM' })
})
