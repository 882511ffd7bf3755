import type { Socket } from 'node:net'
import type { Descriptor } from 'fdpass'
import { superserve } from 'fdpass/superserver'
import * as systemd from 'fdpass/systemd'
import type { BarrierOptions, KeepWatchdogOptions, ServiceState, StoreFdsOptions } from 'fdpass/systemd'
import { exactly, same } from './exactly.ts'

same<
  keyof typeof systemd,
  'barrier' | 'keepWatchdog' | 'listenFds' | 'notify' | 'removeFds' | 'storeFds' | 'watchdogInterval'
>()

export type Types = [BarrierOptions, KeepWatchdogOptions, StoreFdsOptions]

declare const connection: Socket

/** A service. */
export async function serve(): Promise<void> {
  const passed = systemd.listenFds()
  exactly<ReadonlyMap<string, Descriptor[]>>()(passed)
  await superserve({ listen: passed.get('web') ?? 'tcp:8080', module: 'worker.js' })

  const state: ServiceState = {
    ready: true,
    reloading: false,
    stopping: undefined,
    status: 'fine',
    errno: -2,
    busError: 'org.freedesktop.DBus.Error.TimedOut',
    exitStatus: 0,
    watchdog: 'trigger',
    watchdogTimeout: 1000,
    extendTimeout: 1000,
    mainPid: process.pid,
    notifyAccess: 'main',
    variables: { X_ONE: '1' } as const
  }
  exactly<boolean>()(await systemd.notify(state, { signal: AbortSignal.timeout(1) }))
  exactly<boolean>()(await systemd.storeFds('name', [connection, 3] as const, { poll: false }))
  exactly<boolean>()(await systemd.removeFds('name'))
  exactly<boolean>()(await systemd.barrier({ timeout: 1000 }))
  exactly<number | undefined>()(systemd.watchdogInterval())
  using watchdog = systemd.keepWatchdog({ interval: 1000 })
  exactly<Disposable>()(watchdog)

  // @ts-expect-error: not a string of assignments
  await systemd.notify('READY=1')
  // @ts-expect-error: a line of text
  await systemd.notify({ status: 5 })
  // @ts-expect-error: descriptors in an array
  await systemd.storeFds('name', 3)
  // @ts-expect-error: nobody adds to what was passed
  passed.set('web', [])
}
