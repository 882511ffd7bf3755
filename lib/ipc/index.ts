import '../socket/unix-casts.ts'
/**
 * The channel between a Node process and its child, spoken by any process: handles go to and come from `process.send()` and
 * `process.on('message')`.
 *
 * - {@link NodeChannel}, {@link NodeMessage}
 *
 * @module ipc
 */
export { NodeChannel, type NodeChannelOptions } from './node-channel.ts'
export type { NodeMessage, NodeValue } from './node-message.ts'
