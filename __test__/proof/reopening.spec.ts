import { chmodSync, closeSync, constants, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { memfd } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { text } from '../helpers/messages.ts'
import { folder, startStranger, tell } from '../helpers/strangers.ts'

const asRoot = onlyIf(isLinux && process.getuid!() === 0, 'needs root, to become another user, and Linux')

asRoot(
  'the receiver of a descriptor can reopen its file for all that its permissions allow, without its path [S33]',
  async (t) => {
    const hidden = join(folder, 'hidden')
    mkdirSync(hidden, { mode: 0o700 })
    let files = 0
    const make = (mode: number, flags: string | number) => {
      const path = join(hidden, `${files++}`)
      writeFileSync(path, 'content')
      chmodSync(path, mode)
      return openSync(path, flags)
    }
    const cases: [fd: number, outcome: string][] = [
      [make(0o666, 'r'), 'content written'], // was for reading only
      [make(0o644, 'r'), 'content EACCES'],
      [make(0o600, 'r'), 'EACCES EACCES'],
      [make(0o600, 'r+'), 'EACCES EACCES'], // and the descriptor itself serves for both
      [make(0o644, 'a'), 'content EACCES'], // was for writing only
      [make(0o666, 'a'), 'content written'], // and not only at its end
      [make(0o666, constants.O_RDONLY | 0o10000000), 'content written'] // O_PATH: was for nothing
    ]
    const { socket, done } = startStranger('reopen')
    for (const [fd, outcome] of cases) {
      await socket.sendFd(fd)
      t.is(text(await socket.recv()), `${outcome}\n`)
      closeSync(fd)
    }
    socket.close()
    await done
  }
)

asRoot('memory that is sent for reading is opened anew for writing, unless it is sealed [S34]', async (t) => {
  const { socket, done } = startStranger('reopen')
  const outcomes: string[] = []
  for (const seals of [
    [],
    ['grow', 'shrink'],
    ['write'],
    ['future-write'],
    ['seal', 'shrink', 'grow', 'write']
  ] as const) {
    using memory = memfd({ data: 'content', seals })
    const forReading = openSync(`/proc/self/fd/${memory.fd}`, 'r')
    t.throws(() => writeFileSync(forReading, 'x'), { code: 'EBADF' })
    await socket.sendFd(forReading)
    closeSync(forReading)
    const outcome = text(await socket.recv())!.trim()
    const content = Buffer.from(readFileSync(`/proc/self/fd/${memory.fd}`)).toString()
    outcomes.push(`${seals.join('+')}: ${outcome}, ${content}`)
  }
  t.deepEqual(outcomes, [
    ': content written, Xontent',
    'grow+shrink: content written, Xontent',
    'write: content EPERM, content',
    'future-write: content EPERM, content',
    'seal+shrink+grow+write: content EPERM, content'
  ])
  socket.close()
  await done
})

asRoot(
  'the receiver of a directory reaches all beneath it that permissions allow, though its own folder is closed [S35]',
  async (t) => {
    const closed = join(folder, 'closed-above')
    const open = join(closed, 'open')
    mkdirSync(closed, { mode: 0o700 })
    mkdirSync(open)
    chmodSync(open, 0o755)
    writeFileSync(join(closed, 'beside'), 'beside')
    for (const [name, mode] of [
      ['public', 0o644],
      ['private', 0o600]
    ] as const) {
      writeFileSync(join(open, name), name)
      chmodSync(join(open, name), mode)
    }
    const directory = openSync(open, 'r')
    const stranger = startStranger('beneath', 'public', 'private', '../beside')
    await stranger.socket.sendFd(directory)
    closeSync(directory)
    t.deepEqual(await tell(stranger), ['public', 'EACCES', 'EACCES'])
  }
)
