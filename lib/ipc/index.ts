/**
 * The channel between a Node process and its child, for any process: exchanges messages and handles with `process.send()` and
 * `process.on('message')`.
 *
 * - {@link NodeChannel}, {@link NodeMessage}
 *
 * @module fdpass/ipc
 */
import '../socket/index.ts' // adds the casts to Descriptor
export { NodeChannel, type NodeChannelOptions } from './node-channel.ts'
export type { NodeMessage, NodeValue } from './node-message.ts'
