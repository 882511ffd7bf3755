import { withCode } from './errors.ts'

/** The runtime, where it is not Node. */
const runtime = 'bun' in process.versions ? 'Bun' : 'deno' in process.versions ? 'Deno' : undefined

/** Throws ERR_UNSUPPORTED_PLATFORM on a runtime whose own classes lack what a function needs. */
export function checkRuntime(lacking: 'Bun' | 'Deno', message: string): void {
  if (runtime === lacking) throw withCode(new Error(message), 'ERR_UNSUPPORTED_PLATFORM')
}

/**
 * The arguments by which this runtime runs a file that loads fdpass. Deno runs a file without any permission, and does not load the binary
 * then. Its own `child_process.spawn(process.execPath, [file])` passes `-A` too.
 */
export const runArguments: readonly string[] = runtime === 'Deno' ? ['run', '--allow-all'] : []
