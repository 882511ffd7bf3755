import { once } from 'node:events'
import { serveStore } from 'fdpass/store'
import { notify } from 'fdpass/systemd'
import { optionFor, refusedArgument, CliError, USAGE, reportError, displayAddress } from '../errors.ts'
import type { CliCommand } from '../cli-command.ts'
import { withSignals } from '../signals.ts'
import { addressOf, isPeerAllowed, defineAccess, defineSocket } from '../peers.ts'
import { integerFrom } from '../option-parsers.ts'

export const summary = 'Serve a store'

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
      'Keeps descriptors by name until a signal ends it. If a store already serves at SOCKET, this one takes over all its ' +
        'entries: clients notice nothing, and the previous process exits with 0. Readiness is reported to systemd ' +
        '(Type=notify).\n\n' +
        'By default only the same user and root can use the store: see --socket-mode and --allow-uid. The permissions of each ' +
        'entry apply in addition.'
    )
    .option('--max-fds <N>', 'Keep at most N descriptors (default: 1024; at most 4000).', integerFrom(1))
    .option(
      '--max-per-user <N>',
      'Keep at most N descriptors for one user other than root (default: 256).',
      integerFrom(1)
    )
    .option(
      '--takeover <PATH>',
      'Set the socket for take-overs by a successor (default: SOCKET followed by .takeover).'
    )
    .addExample(
      `
# Serve root and the user nobody
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
    process.stderr.write('fdpass: store serve: Another process has taken over\n')
  })
}

/** Reports the state to the service manager, if there is one. */
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
