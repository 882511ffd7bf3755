import { connect as dial } from 'node:net'
import { path, pause, read, step, watch } from '../scenario.ts'

/** What a worker answers. */
async function ask(): Promise<string> {
  const socket = dial(path('served')).on('error', () => {})
  socket.write('question')
  return read(socket)
}

/** A superserver with a worker, which is replaced. */
export async function workers(): Promise<void> {
  const { superserve } = await import('fdpass/superserver')
  const server = await step('superserve', () =>
    superserve({
      listen: [`unix:${path('served')}`, 'tcp:127.0.0.1:0'],
      module: new URL('../worker.js', import.meta.url),
      args: ['worker'],
      workers: 1,
      maxPerClient: 10,
      readyTimeout: 3000,
      drainTimeout: 500
    })
  )
  if (server === undefined) return
  watch(server)
  for (let i = 0; i < 3; i++) await step('asked', ask, (said) => said)
  await step('reload', () => server.reload())
  await step('asked again', ask, (said) => said)
  // An acknowledgement that could not be sent at once comes later than its answer.
  for (let i = 0; i < 50; i++) {
    const { accepted, acknowledged, lost } = server.stats()
    if (acknowledged + lost >= accepted) break
    await pause(20)
  }
  await step(
    'stats',
    () => server.stats(),
    ({ accepted, acknowledged, lost }) => [accepted, acknowledged, lost]
  )
  await step('close', () => server.close({ timeout: 1500 }))
}

/** A superserver that starts programs. */
export async function programs(): Promise<void> {
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
