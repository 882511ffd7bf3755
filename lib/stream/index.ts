import '../socket/index.ts' // adds the casts to Descriptor
import './stream-casts.ts' // adds the casts to UnixSocket and Descriptor
export { UnixStream, type UnixStreamOptions } from './unix-stream.ts'
export { DescriptorStream, type DescriptorStreamOptions } from './descriptor-stream.ts'
export { type TerminalSize, TerminalStream } from './terminal-stream.ts'
