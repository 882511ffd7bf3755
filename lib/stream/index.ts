import '../socket/index.ts' // adds the casts to Descriptor
import './stream-casts.ts' // adds the casts to UnixSocket and Descriptor
export { UnixStream, type UnixStreamOptions } from './unix-stream.ts'
export {
  DescriptorStream,
  type DescriptorStreamOptions,
  type TerminalSize,
  TerminalStream
} from './descriptor-stream.ts'
