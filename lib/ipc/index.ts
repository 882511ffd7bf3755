/**
 * The channel between a Node process and its child, for any process: exchanges messages and handles with `process.send()` and
 * `process.on('message')`.
 *
 * - {@link NodeChannel}, {@link NodeMessage}
 *
 * @module fdpass/ipc
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export { NodeChannel, type NodeChannelOptions } from './node-channel.ts'
export type { NodeMessage, NodeValue } from './inbox.ts'
