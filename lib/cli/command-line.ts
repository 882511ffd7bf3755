import { createRequire } from 'node:module'
import { CliCommand } from './cli-command.ts'

interface Entry {
  readonly summary: string
  readonly load: () => Promise<{ define: (command: CliCommand, buildComplete: () => Promise<CliCommand>) => void }>
}

/** All commands, in the order of the help. Each is loaded only where it is used. */
const commands: Readonly<Record<string, Entry>> = {
  cat: { summary: 'Print files that another process opens and passes', load: () => import('./cat.ts') },
  send: { summary: 'Send open files over a Unix domain socket', load: () => import('./send.ts') },
  recv: { summary: 'Receive descriptors, show them or give them to a program', load: () => import('./recv.ts') },
  serve: { summary: 'Listen, and have programs or workers serve', load: () => import('./serve.ts') },
  store: { summary: 'Keep descriptors for other processes, by name', load: () => import('./store/store.ts') },
  completion: { summary: 'Print completions for a shell', load: () => import('./completion.ts') }
}

/** The command line as a whole; of its commands those that are `wanted` are complete, and the others have a name and a summary. */
export async function buildProgram(wanted: (name: string) => boolean): Promise<CliCommand> {
  const { version } = createRequire(import.meta.url)('fdpass/package.json') as { version: string }
  const root = new CliCommand('fdpass')
    .description('Pass open file descriptors between processes, over Unix domain sockets.')
    .usage('COMMAND [OPTION...] [ARGUMENT...]')
    .version(`fdpass ${version}`, '-V, --version', 'Print the version.')
    .helpOption('-h, --help', 'Print this help.')
    .helpCommand('help [COMMAND]', 'Print the help of a command')
    .configureHelp({
      subcommandTerm: (command) => (command.name() === 'help' ? 'help [COMMAND]' : command.name())
    })
    .enablePositionalOptions()
    .exitOverride()
  for (const [name, { summary, load }] of Object.entries(commands)) {
    const command = root.command(name).summary(summary)
    if (wanted(name)) (await load()).define(command, () => buildProgram(() => true))
  }
  return root
}
