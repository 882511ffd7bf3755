import { createRequire } from 'node:module'
import { CliCommand } from './cli-command.ts'

interface Entry {
  readonly summary: string
  readonly load: () => Promise<{ define: (command: CliCommand, buildComplete: () => Promise<CliCommand>) => void }>
}

/** All commands, in the order of the help. A command's module is loaded only if it is used. */
const commands: Readonly<Record<string, Entry>> = {
  cat: { summary: 'Print files that a child process opens', load: () => import('./cat.ts') },
  send: { summary: 'Send open files over a Unix domain socket', load: () => import('./send.ts') },
  recv: { summary: 'Receive descriptors, and print them or run a program with them', load: () => import('./recv.ts') },
  serve: { summary: 'Listen, and run programs or workers for the connections', load: () => import('./serve.ts') },
  store: { summary: 'Keep descriptors for other processes, by name', load: () => import('./store/store.ts') },
  completion: { summary: 'Print a completion script for a shell', load: () => import('./completion.ts') }
}

/** Builds the whole command line. Commands that are not `wanted` have a name and a summary only. */
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
