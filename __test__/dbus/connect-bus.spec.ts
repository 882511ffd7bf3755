import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { listen } from 'fdpass'
import { connectBus } from 'fdpass/dbus'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const soon = () => ({ signal: AbortSignal.timeout(30_000) })

const folder = temporaryFolder()

let names = 0

const newPath = () => join(folder, `bus-${names++}`)

/** Connects by an address to a server that sends its name. */
async function reached(address: string, path: string): Promise<string> {
  const server = await listen(path)
  try {
    const [stream, socket] = await Promise.all([connectBus(address), server.accept()])
    await socket.send('here')
    const [data] = await once(stream, 'data', soon())
    stream.destroy()
    socket.close()
    return String(data)
  } finally {
    server.close()
  }
}

test('connectBus finds a socket by its path, with escapes, and by the first of several addresses with a listener', async (t) => {
  for (const [made, address] of [
    [newPath(), (at: string) => `unix:path=${at}`],
    [newPath(), (at: string) => `unix:guid=00,path=${at},other=1;`],
    [`${newPath()} ü,;%`, (at: string) => `unix:path=${encodeURIComponent(at)}`],
    [newPath(), (at: string) => `tcp:host=localhost,port=1;unix:tmpdir=/tmp;unix:path=${folder}/nobody;unix:path=${at}`]
  ] as const) {
    t.is(await reached(address(made), made), 'here')
  }
})

onLinux('connectBus finds a socket by its abstract name', async (t) => {
  const name = `fdpass-${process.pid} 1`
  t.is(await reached(`unix:abstract=${name.replace(' ', '%20')}`, `\0${name}`), 'here')
})

test.serial('connectBus finds the session and the system bus by the environment', async (t) => {
  const { env } = process
  const before = { ...env }
  try {
    const runtime = join(folder, 'bus')
    env.XDG_RUNTIME_DIR = folder
    delete env.DBUS_SESSION_BUS_ADDRESS
    t.is(await reached('session', runtime), 'here')
    t.is(await reached('unix:runtime=yes', runtime), 'here')
    env.DBUS_SESSION_BUS_ADDRESS = `unix:path=${folder}/session`
    t.is(await reached('session', `${folder}/session`), 'here')
    env.DBUS_SYSTEM_BUS_ADDRESS = `unix:path=${folder}/system`
    t.is(await reached('system', `${folder}/system`), 'here')
    delete env.XDG_RUNTIME_DIR
    delete env.DBUS_SESSION_BUS_ADDRESS
    await t.throwsAsync(connectBus(), { code: 'ERR_INVALID_ARG_VALUE' })
    await t.throwsAsync(connectBus('unix:runtime=yes'), { code: 'ERR_INVALID_ARG_VALUE' })
  } finally {
    for (const name of ['XDG_RUNTIME_DIR', 'DBUS_SESSION_BUS_ADDRESS', 'DBUS_SYSTEM_BUS_ADDRESS']) {
      if (before[name] === undefined) delete env[name]
      else env[name] = before[name]
    }
  }
})

test('connectBus rejects what is no address, what carries no descriptors, and with the error of the last address', async (t) => {
  for (const address of [
    '',
    'bus',
    '/run/bus',
    'tcp:host=localhost,port=1',
    'unix:',
    'unix:path',
    'unix:path=/x%2',
    'unix:path=/x,path=/y',
    'unix:path=/x,abstract=y',
    'unix:dir=/tmp'
  ]) {
    await t.throwsAsync(connectBus(address), { code: 'ERR_INVALID_ARG_VALUE' }, address)
  }
  await t.throwsAsync(connectBus(1 as never), { code: 'ERR_INVALID_ARG_TYPE' })
  const file = join(folder, 'file')
  writeFileSync(file, '')
  await t.throwsAsync(connectBus(`unix:path=${file};unix:path=${folder}/nobody`), { code: 'ENOENT' })
  await t.throwsAsync(connectBus(`unix:path=${file}`, { signal: AbortSignal.abort() }), { name: 'AbortError' })
})
