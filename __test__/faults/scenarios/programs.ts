import { connect as dial } from 'node:net'
import { path, read, step, watch } from '../scenario.ts'

/** A superserver that starts programs. */
export async function run(): Promise<void> {
  const { superserve } = await import('fdpass/superserver')
  const server = await step('superserve', () =>
    superserve({
      services: {
        echo: {
          listen: `unix:${path('echo')}`,
          command: ['/bin/cat'],
          maxPerClient: 10,
          pause: 50,
          cwd: '/',
          umask: 0o22,
          rlimits: { nofile: 100 },
          noNewPrivileges: true
        },
        wait: { listen: `unix:${path('wait')}`, command: ['/bin/cat'], mode: 'wait', pause: 50 }
      }
    })
  )
  if (server === undefined) return
  watch(server)
  for (let i = 0; i < 3; i++) {
    const socket = dial(path('echo')).on('error', () => {})
    socket.end('question')
    await step(
      'asked',
      () => read(socket),
      (said) => said
    )
  }
  await step('close', () => server.close({ timeout: 1000 }))
}
