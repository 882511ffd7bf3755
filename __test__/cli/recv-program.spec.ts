import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'
import test from 'ava'
import { files, receiver, send } from '../helpers/cli-passing.ts'
import { hasPython, onlyIf } from '../helpers/conditions.ts'
import { connectWhenThere } from '../helpers/connections.ts'

const python = resolve('__test__/fixtures/descriptors.py')

const hasLibsystemd =
  hasPython && spawnSync('python3', ['-c', 'import ctypes; ctypes.CDLL("libsystemd.so.0")']).status === 0

onlyIf(hasLibsystemd, 'needs libsystemd')(
  'A program that recv runs finds the descriptors, and their names, by sd_listen_fds_with_names',
  async (t) => {
    const cwd = files()
    const running = receiver(t, cwd, ['--', 'python3', python, 'listen_fds'])
    const sent = await send(t, cwd, ['a', 'b', '--data', 'config'])
    t.is(sent.code, 0)
    t.deepEqual(await running.ended, {
      code: 0,
      signal: null,
      stdout: 'config|content of a\nconfig|content of b\n2 2\n',
      stderr: ''
    })
    for (const [args, printed] of [
      [['--together', 'a', 'b'], 'a|content of a\nb|content of b\n2 2\n'],
      [['--data', 'no:name', 'a'], 'unknown|content of a\n1 1\n'],
      [['--data', 'ä', 'a'], 'unknown|content of a\n1 1\n'],
      [['--together', '--data', 'one\ntwo\nthree', 'a', 'b'], 'unknown|content of a\nunknown|content of b\n2 2\n']
    ] as const) {
      const next = receiver(t, cwd, ['--', 'python3', python, 'listen_fds'])
      await send(t, cwd, args)
      t.is((await next.ended).stdout, printed)
    }
  }
)

test('The exit status of the program is that of recv, and standard input is the program’s', async (t) => {
  const cwd = files()
  for (const [text, code, stdout] of [
    ['exit 7', 7, ''],
    ['kill -KILL $$', 128 + 9, ''],
    ['kill -TERM $$', 128 + 15, ''],
    ['test "$LISTEN_PID" = $$ && cat && cat <&3', 0, 'input\ncontent of a']
  ] as const) {
    const running = receiver(t, cwd, ['--', 'sh', '-c', text], { input: 'input\n' })
    await send(t, cwd, ['a'])
    t.deepEqual(await running.ended, { code, signal: null, stdout, stderr: '' }, text)
  }
  const running = receiver(t, cwd, ['--', 'cat'])
  ;(await connectWhenThere(join(cwd, 'x.sock'))).close()
  t.deepEqual(await running.ended, {
    code: 1,
    signal: null,
    stdout: '',
    stderr: 'fdpass: recv: No descriptor was received\n'
  })
})

test('The program that recv runs gets the signals that recv gets', async (t) => {
  const cwd = files()
  const text = 'trap "echo TERM; exit 3" TERM; trap "echo USR1" USR1; echo ready; while :; do sleep 0.05; done'
  const running = receiver(t, cwd, ['--', 'sh', '-c', text])
  await send(t, cwd, ['a'])
  await running.printed(/ready/)
  running.child.kill('SIGUSR1')
  await running.printed(/USR1/)
  running.child.kill('SIGTERM')
  const { code, stdout } = await running.ended
  t.deepEqual({ code, stdout }, { code: 3, stdout: 'ready\nUSR1\nTERM\n' })
})
