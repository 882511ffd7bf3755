import { once } from 'node:events'
import { serveStore } from 'fdpass/store'
import { notify } from 'fdpass/systemd'
import { optionFor, refusedArgument } from '../argument-error.ts'
import type { CliCommand } from '../cli-command.ts'
import { CliError, USAGE, reportError, displayAddress } from '../errors.ts'
import { withSignals } from '../signals.ts'
import { addressOf, isPeerAllowed, defineAccess, defineSocket } from '../peers.ts'
import { integerFrom } from '../option-parsers.ts'

export const summary = 'Keep descriptors for those who put and get them'

interface ServeOptions {
  readonly socketMode?: number
  readonly allowUid?: readonly number[]
  readonly maxFds?: number
  readonly maxPerUser?: number
  readonly takeover?: string
}

export function define(command: CliCommand): void {
  defineAccess(defineSocket(command))
    .usage('[OPTION...] SOCKET')
    .description(
      'Keep descriptors by name, until a signal ends it. Where a store serves at SOCKET already, this one takes its place, with ' +
        'everything that it keeps: nobody who asks notices, and the other one ends, with 0. It tells systemd when it is ready ' +
        '(Type=notify).\n\n' +
        'Without --socket-mode and --allow-uid only its own user, and root, can use it. Who may do what with an entry is for ' +
        "the entry's own mode to say."
    )
    .option('--max-fds <N>', 'The most descriptors that are kept (default: 1024; at most 4000).', integerFrom(1))
    .option('--max-per-user <N>', 'The most that are kept for one user other than root (default: 256).', integerFrom(1))
    .option(
      '--takeover <PATH>',
      'The socket where it meets the one before and the one after it (default: SOCKET with .takeover behind it).'
    )
    .addExample(
      `
# Keep what root and the user nobody put
fdpass store serve --socket-mode 666 --allow-uid 0 --allow-uid 65534 ./s.sock`
    )
    .action(serve)
}

async function serve(operand: string, options: ServeOptions): Promise<void> {
  const { socketMode: mode, takeover, maxFds, maxPerUser } = options
  await withSignals(async (signal) => {
    using service = await serveStore({
      path: addressOf(operand),
      ...(mode !== undefined && { mode }),
      ...(takeover !== undefined && { takeover: addressOf(takeover) }),
      allow: (who) => isPeerAllowed(options, who),
      maxFds,
      maxPerUser,
      signal
    }).catch((error: unknown) => {
      throw asOption(error)
    })
    process.stderr.write(`fdpass: store serve: Listening on unix:${displayAddress(service.address)}\n`)
    report({ ready: true })
    if (!signal.aborted) await Promise.race([service.superseded, once(signal, 'abort')])
    if (!service.closed) report({ stopping: true })
    signal.throwIfAborted()
    process.stderr.write('fdpass: store serve: Another one has taken over\n')
  })
}

/** Tells a service manager, if there is one. */
function report(state: Parameters<typeof notify>[0]): void {
  notify(state).catch((error: unknown) => reportError('store serve', error))
}

/** Returns an error about an option of the package as one about the command line. */
function asOption(error: unknown): unknown {
  const refused = refusedArgument(error)
  if (refused === undefined) return error
  const [name = ''] = refused.path
  const shownName = name === 'path' ? 'SOCKET' : optionFor(name === 'mode' ? 'socketMode' : name)
  return new CliError(`${shownName} ${refused.reason}`, USAGE)
}
