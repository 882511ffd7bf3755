import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { type AddressInfo, type Socket, createServer } from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { sendFd } from 'fdpass'
import { onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'
import { temporaryFile, temporaryFolder } from '../helpers/descriptors.ts'
import { fixturePath, runs, start } from '../helpers/processes.ts'
import { Reader } from '../helpers/sockets.ts'

const sshd = '/usr/sbin/sshd' // it does not start by another name
const withOpenSSH = onlyIf(runs('ssh', '-V') && existsSync(sshd), 'needs ssh and sshd')

/** An sshd of this user's, which a connection to a port of its own starts. */
async function startSshd(t: ExecutionContext) {
  const folder = temporaryFolder()
  const [hostKey, userKey, config, known] = ['host', 'user', 'config', 'known'].map((name) => join(folder, name))
  for (const key of [hostKey!, userKey!]) execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key])
  writeFileSync(known!, `fdpass ${readFileSync(`${hostKey}.pub`, 'utf8')}`)
  const options = ['UsePAM no', 'StrictModes no', 'PermitRootLogin yes', 'LogLevel ERROR']
  writeFileSync(config!, [`HostKey ${hostKey}`, `AuthorizedKeysFile ${userKey}.pub`, ...options].join('\n'))
  if (process.getuid!() === 0) mkdirSync('/run/sshd', { recursive: true, mode: 0o755 })

  const children: ChildProcess[] = []
  t.teardown(() => children.forEach((child) => child.kill('SIGKILL')))
  const ports: (number | undefined)[] = []
  const server = createServer({ pauseOnConnect: true }, (socket: Socket) => {
    ports.push(socket.remotePort)
    const child = spawn(sshd, ['-i', '-e', '-f', config!], { stdio: [socket, socket, 'inherit'] })
    children.push(child)
    socket.destroy()
  })
  server.listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const client = {
    HostKeyAlias: 'fdpass',
    UserKnownHostsFile: known,
    StrictHostKeyChecking: 'yes',
    IdentityFile: userKey,
    IdentitiesOnly: 'yes',
    IdentityAgent: 'none',
    BatchMode: 'yes',
    Port: port
  }
  const args = Object.entries(client).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  return { folder, ports, args: ['-F', 'none', ...args, `${userInfo().username}@127.0.0.1`] }
}

withOpenSSH('ssh speaks over the connection that its ProxyCommand passes (ProxyUseFdpass)', async (t) => {
  const { args, ports } = await startSshd(t)
  const command = [process.execPath, ...process.execArgv, fixturePath('peer'), 'proxy', '1']
    .map((part) => `'${part}'`)
    .join(' ')
  const proxy = ['-o', 'ProxyUseFdpass=yes', '-o', `ProxyCommand=${command} %h %p`]
  const { done } = start(t, 'ssh', [...proxy, ...args, 'echo $SSH_CONNECTION; cat'], {}, 'from Node\n')
  const [connection, ...rest] = (await done).split('\n')
  t.deepEqual(rest, ['from Node', ''])
  t.is(ports.length, 1)
  t.is(connection!.split(' ')[1], `${ports[0]}`)
})

const u32 = (value: number) => Buffer.from([value >>> 24, value >>> 16, value >>> 8, value])
/** What its length goes before: a string, or a message. */
const counted = (content: string | Buffer) => Buffer.concat([u32(content.length), Buffer.from(content as string)])
// Messages of OpenSSH's PROTOCOL.mux.
const HELLO = 1
const VERSION = 4
const NEW_SESSION = 0x10000002
const EXIT_MESSAGE = 0x80000004
const SESSION_OPENED = 0x80000006
const NO_ESCAPE = 0xffffffff

withOpenSSH('ssh runs a command on the input and output that its control socket is sent (ControlMaster)', async (t) => {
  const { folder, args } = await startSshd(t)
  const path = join(folder, 'control')
  start(t, 'ssh', ['-N', '-M', '-S', path, ...args])
  const socket = await connectWhenThere(path)
  t.teardown(() => socket.close())
  const send = (...parts: Buffer[]) => socket.send(counted(Buffer.concat(parts)))
  const reader = new Reader(socket)
  const next = async () => {
    const length = (await reader.take(4)).readUInt32BE()
    const data = await reader.take(length)
    return Array.from({ length: length / 4 }, (_, i) => data.readUInt32BE(i * 4))
  }

  await send(u32(HELLO), u32(VERSION))
  t.deepEqual(await next(), [HELLO, VERSION])
  const noes = Buffer.concat([u32(0), u32(0), u32(0), u32(0)]) // terminal, X11, agent, subsystem
  const command = counted('cat; echo an error >&2; exit 7')
  await send(u32(NEW_SESSION), u32(1), counted(''), noes, u32(NO_ESCAPE), counted(''), command)
  const files = ['from Node', '', ''].map((content) => temporaryFile(content))
  for (const file of files) {
    const fd = openSync(file, 'r+')
    await sendFd(socket, fd)
    closeSync(fd)
  }
  const [opened, request, session] = await next()
  t.deepEqual([opened, request], [SESSION_OPENED, 1])
  t.deepEqual(await next(), [EXIT_MESSAGE, session, 7])
  t.is(await socket.recv(), null)
  t.deepEqual(
    files.map((file) => readFileSync(file, 'utf8')),
    ['from Node', 'from Node', 'an error\n']
  )
})
