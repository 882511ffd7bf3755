/**
 * What systemd and its kin say to services, and services to them: sockets and stored descriptors that are passed,
 * sd_listen_fds(3), and how a service is doing, sd_notify(3).
 *
 * - What was passed: {@link listenFds}
 * - How it is doing: {@link notify} with {@link ServiceState}, {@link barrier}; {@link watchdogInterval}, {@link keepWatchdog}
 * - What outlives a restart: {@link storeFds}, {@link removeFds}
 *
 * @module fdpass/systemd
 */
import '../socket/index.ts' // adds the casts to Descriptor
export { type BarrierOptions, barrier } from './barrier.ts'
export { type StoreFdsOptions, removeFds, storeFds } from './fd-store.ts'
export { listenFds } from './listen-fds.ts'
export { type ServiceState, notify } from './notify.ts'
export { type KeepWatchdogOptions, keepWatchdog, watchdogInterval } from './watchdog.ts'
