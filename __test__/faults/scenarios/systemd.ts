import { bind } from 'fdpass'
import { closeEach, contents, exchange, file, gather, keep, path, step } from '../scenario.ts'

/** Notifications of a service manager. */
export async function run(): Promise<void> {
  const { barrier, notify, storeFds } = await import('fdpass/systemd')
  const one = file('one')
  const manager = keep(await step('bind', () => bind(path('notify'))))
  if (manager === undefined) return
  process.env.NOTIFY_SOCKET = path('notify')
  await exchange(
    'ready',
    () => notify({ ready: true }),
    (signal) => gather(manager, 1, signal),
    (got) => got
  )
  await exchange(
    'stored',
    () => storeFds('one', [one]),
    (signal) => manager.recv({ signal }),
    (message) => contents(message!.fds)
  )
  await exchange(
    'barrier',
    () => barrier({ signal: AbortSignal.timeout(1000) }),
    (signal) => manager.recv({ signal }),
    (message) => {
      closeEach(message!.fds)
    }
  )
}
