import { once } from 'node:events'
import { chmodSync, closeSync, existsSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { basename, dirname, relative } from 'node:path'
import { text } from 'node:stream/consumers'
import { inspect } from 'node:util'
import test from 'ava'
import { type Descriptor, bindListener, listen, socketpair } from 'fdpass'
import { spawnWithListeners } from 'fdpass/systemd'
import { type Loose, RANGE, TYPE, VALUE, notOptions, throws } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { readToEnd } from '../helpers/connections.ts'
import { countFds, newPath, openFile, temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { endWith, fixturePath, runs } from '../helpers/processes.ts'

const folder = temporaryFolder()
const onLinux = onlyIf(isLinux, 'needs Linux')
const hasLibsystemd = hasPython && runs('python3', '-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")')
const withLibsystemd = onlyIf(hasLibsystemd, 'needs Python 3.9 and libsystemd')

/** The kind and the address of a socket, as the fixture prints them. */
const described = ({ kind, address }: Descriptor) => [kind, address]

test('a child of Node adopts what spawnWithListeners passes, by name and in order', async (t) => {
  using web = bindListener({ port: 0, host: '127.0.0.1' })
  using api = bindListener({ path: newPath() })
  const server = await listen(newPath())
  const [socket, other] = socketpair({ type: 'dgram' })
  const file = openFile('passed')
  const listeners = { web: [web, api], 'other name=?': server, pair: [socket], file, last: web }
  const env = { ...process.env, LISTEN_PID: '1', LISTEN_FDS: '9', LISTEN_PIDFDID: '1' }
  const [command, ...args] = [process.execPath, ...process.execArgv, fixturePath('passed'), 'once']
  const child = spawnWithListeners(command!, args, listeners, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  t.is(child.spawnfile, command)
  t.deepEqual(child.spawnargs, [command, ...args])
  const done = endWith(t, child)
  for (const each of [server, socket]) each.close() // the child has its own
  closeSync(file)
  t.deepEqual(JSON.parse(await done), [
    [
      ['web', [web, api].map(described)],
      ['other name=?', [['unix-listener', server.address]]],
      ['pair', [['unix-dgram', null]]],
      ['file', [['file', null]]],
      ['last', [described(web)]]
    ],
    0,
    []
  ])
  other.close()
})

withLibsystemd('a child of python3 adopts what spawnWithListeners passes, by libsystemd, and accepts', async (t) => {
  using listener = bindListener({ path: newPath() })
  const script = `import ctypes, socket
names = ctypes.POINTER(ctypes.c_char_p)()
assert ctypes.CDLL("libsystemd.so.0").sd_listen_fds_with_names(1, ctypes.byref(names)) == 2
print(names[0].decode(), names[1].decode())
socket.socket(fileno=4).accept()[0].sendall(b"from Python")`
  const child = spawnWithListeners('python3', ['-c', script], { web: [0, listener] }, { stdio: 'pipe' })
  const done = endWith(t, child)
  child.stderr!.pipe(process.stderr)
  const client = connect(listener.address as string)
  t.is(await readToEnd(client), 'from Python')
  t.is((await done).trim(), 'web web')
})

onLinux('spawnWithListeners executes a program with its arguments, environment and folder', async (t) => {
  const program = temporaryFile('#!/bin/sh\nprintf "%s\\0" $$ "$@" "$(pwd)" ""; cat /proc/$$/environ; exit 3')
  chmodSync(program, 0o700)
  const args = ['-a', 'two words', '', '"$x', '$(exit 5)', "'"]
  const name = 'a'.repeat(255)
  for (const file of [program, relative(folder, program), basename(program)]) {
    const variables = { IFS: '0123456789', 'not a name': 'x\n', "it's": '$(no)', EMPTY: '' }
    const env = { ...variables, PATH: `${dirname(program)}:${process.env.PATH}` }
    const given = { ...env, LISTEN_PID: '1', LISTEN_PIDFDID: '1' }
    const child = spawnWithListeners(file, args, { [name]: 0 }, { env: given, cwd: folder })
    const [output, [code]] = await Promise.all([text(child.stdout!), once(child, 'close')])
    t.is(code, 3)
    const fields = output.split('\0')
    t.deepEqual(fields.slice(0, args.length + 2), [`${child.pid}`, ...args, folder])
    const passed = { ...env, LISTEN_PID: `${child.pid}`, LISTEN_FDS: '1', LISTEN_FDNAMES: name }
    const expected = Object.entries(passed).map(([variable, value]) => `${variable}=${value}`)
    t.deepEqual(fields.slice(args.length + 3, -1).toSorted(), expected.toSorted())
  }
})

test('spawnWithListeners reports a program that it cannot start, as spawn() does', async (t) => {
  const file = temporaryFile('no program')
  for (const [program, code] of [
    ['fdpass-no-such-program', 'ENOENT'],
    [file, 'EACCES'],
    [folder, 'EACCES']
  ] as const) {
    const child = spawnWithListeners(program, [], { web: 0 })
    const [error] = (await once(child, 'error')) as [NodeJS.ErrnoException]
    t.like(error, { code, path: program, syscall: `spawn ${program}` })
    t.is(child.pid, undefined)
  }
})

test.serial(
  'spawnWithListeners refuses what it cannot pass before it starts anything, and leaves nothing open',
  (t) => {
    const mark = newPath()
    const loosely = spawnWithListeners as unknown as Loose
    const closed = bindListener({ path: newPath() })
    closed.closeSync()
    const refuses = (code: string, listeners: unknown, options?: unknown, args: unknown = [mark]) =>
      throws(t, inspect([listeners, options]), code, () => loosely('touch', args, listeners, options))
    refuses('ERR_DESCRIPTOR_CLOSED', { a: 0, web: [0, closed] }) // opens what the runtime needs
    const before = isLinux ? countFds() : 0
    for (const listeners of [null, undefined, 5, 'web']) refuses(TYPE, listeners)
    for (const source of [null, undefined, '3', {}, true, [[0]], process, { fd: 0 }]) {
      refuses(TYPE, { a: [0, 0], web: source })
      refuses(TYPE, { a: [0, 0], web: [0, source] })
    }
    for (const source of [-1, 1.5, NaN, 2 ** 31]) refuses(RANGE, { a: 0, web: source })
    refuses('EBADF', { a: 0, web: 999_999 })
    for (const name of ['', 'a:b', 'é', 'a\nb', 'x'.repeat(256)]) refuses(VALUE, { a: 0, [name]: 0 })
    for (const listeners of [{}, [], { web: [] }]) refuses(VALUE, listeners)
    for (const options of notOptions) refuses(TYPE, { web: 0 }, options)
    for (const options of [{ shell: true }, { argv0: 'x' }, { stdio: ['pipe', 'pipe', 'pipe', 'pipe'] }]) {
      refuses(VALUE, { web: 0 }, options)
    }
    refuses(TYPE, { web: 0 }, undefined, 'args')
    refuses(TYPE, { web: 0 }, { cwd: 5 })
    throws(t, 'file', TYPE, () => loosely(5, [], { web: 0 }))
    throws(t, 'file', VALUE, () => loosely('', [], { web: 0 }))
    const equals = `${mark}=`
    writeFileSync(equals, '', { mode: 0o700 })
    throws(t, 'file', VALUE, () => loosely(equals, [], { web: 0 }, { env: { 'a b': '1' }, cwd: folder }))
    t.false(existsSync(mark))
    if (isLinux) t.is(countFds(), before)
  }
)
