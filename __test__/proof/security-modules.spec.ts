// A security module between two processes. The kernels of `npm run test:kernels -- 6.1+smack 7.2+smack` have Smack, whose rules are lines that
// root writes (Documentation/admin-guide/LSM/Smack.rst). The tests run as root with the label `_`. Smack does not restrict root.
import { execFileSync } from 'node:child_process'
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { listen } from 'fdpass'
import { onlyIf } from '../helpers/conditions.ts'
import { hasWriter, newPath, openPipe, temporaryFile } from '../helpers/descriptors.ts'
import { type Fixture, fixturePath, linesFrom, startProgram } from '../helpers/processes.ts'
import { text } from '../helpers/sockets.ts'

const RULES = '/sys/fs/smackfs/load2'

const withSmack = onlyIf(existsSync(RULES), 'needs the security module Smack: npm run test:kernels -- 6.1+smack')

/** Takes a label, has the kernel report a refused descriptor by SO_RIGHTS_NOTRUNC (85, from Linux 7.3 on) if asked to, and executes a command. */
const WRAPPER = `
import os, socket, sys
label, option, *command = sys.argv[1:]
open('/proc/self/attr/current', 'w').write(label)
try:
    if option == 'notrunc': socket.socket(fileno=os.dup(3)).setsockopt(socket.SOL_SOCKET, 85, 1)
except OSError: pass
os.execvp(command[0], command)`

/** Starts another user, see other-user.ts, with a label. */
function startLabelled(label: string, scene: string, args: readonly string[], option = ''): Fixture {
  const node = [process.execPath, ...process.execArgv, fixturePath('other-user'), scene, ...args]
  return startProgram('python3', ['-c', WRAPPER, label, option, ...node])
}

/** Lets processes of a label use what has the label `_`, and be used by it. */
function allow(label: string): void {
  for (const rule of [`${label} _ rwxat`, `_ ${label} rwxat`]) writeFileSync(RULES, rule)
}

withSmack('peer() has the label of the process that connected', async (t) => {
  allow('Client')
  using server = await listen(newPath(), { mode: 0o666 })
  const client = startLabelled('Client', 'connect', [server.address])
  const connection = await server.accept()
  t.is(connection.peer().label, 'Client')
  await connection.send('welcome')
  connection.close()
  t.deepEqual(await linesFrom(client), ['welcome'])
})

withSmack('what a policy denies is an EACCES error that names the call and the address', async (t) => {
  using server = await listen(newPath(), { mode: 0o666 })
  const folder = newPath('open')
  mkdirSync(folder)
  chmodSync(folder, 0o777)
  const path = join(folder, 'socket')
  t.deepEqual(await linesFrom(startLabelled('Stranger', 'denied', [server.address, path])), [
    `EACCES: permission denied, connect '${server.address}'`,
    `EACCES: permission denied, bind '${path}'`
  ])
})

for (const option of ['', 'notrunc']) {
  const how = option === '' ? '' : ', with SO_RIGHTS_NOTRUNC where the kernel has it'
  withSmack(
    `a message with a descriptor that a policy withholds is an error, and its others are closed${how}`,
    async (t) => {
      allow('Receiver')
      const secret = temporaryFile('secret')
      execFileSync('python3', ['-c', 'import os, sys; os.setxattr(sys.argv[1], "security.SMACK64", b"Secret")', secret])
      const file = openSync(secret, 'r')
      const [before, behind, alone] = [openPipe(), openPipe(), openPipe()]
      const receiver = startLabelled('Receiver', 'receive', [], option)
      const answer = async (fds: number[]) => {
        await receiver.socket.send('sent', { fds })
        return text((await receiver.socket.recv())!)
      }
      t.is(await answer([]), 'sent 0\n')
      t.is(await answer([before.write, file, behind.write]), 'ERR_CONTROL_TRUNCATED\n')
      closeSync(before.write)
      closeSync(behind.write)
      t.deepEqual(
        [before, behind].map(({ read }) => hasWriter(read)),
        [false, false],
        'the receiver holds none of them'
      )
      t.is(await answer([file]), 'ERR_CONTROL_TRUNCATED\n')
      t.is(await answer([alone.write]), 'sent 1\n')
      closeSync(alone.write)
      t.true(hasWriter(alone.read), 'it has what the policy allows')
      receiver.socket.close()
      await receiver.done
      t.false(hasWriter(alone.read))
      for (const fd of [file, before.read, behind.read, alone.read]) closeSync(fd)
    }
  )
}
