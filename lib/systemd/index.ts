/**
 * The interface between services and a service manager such as systemd: passed sockets and stored descriptors, sd_listen_fds(3), and
 * the state of a service, sd_notify(3).
 *
 * - Passed descriptors: {@link listenFds}, {@link spawnWithListeners}
 * - State: {@link notify} with {@link ServiceState}, {@link barrier}; {@link watchdogInterval}, {@link keepWatchdog}
 * - Descriptors that outlive a restart: {@link storeFds}, {@link removeFds}
 *
 * @module fdpass/systemd
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export { type BarrierOptions, barrier, type ServiceState, notify } from './notify.ts'
export { type StoreFdsOptions, removeFds, storeFds } from './fd-store.ts'
export { listenFds } from './listen-fds.ts'
export type { NotifyOptions } from './message.ts'
export { spawnWithListeners } from './spawn-with-listeners.ts'
export { type KeepWatchdogOptions, keepWatchdog, watchdogInterval } from './watchdog.ts'
