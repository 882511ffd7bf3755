import { createRequire } from 'node:module'
import { CliCommand } from './cli-command.ts'

interface Entry {
  readonly summary: string
  readonly load: () => Promise<{ define: (command: CliCommand) => void }>
}

/** All commands, in the order of the help. Each is loaded only where it is used. */
const commands: Readonly<Record<string, Entry>> = {
  cat: { summary: 'Print files that another process opens and passes', load: () => import('./cat.ts') },
  send: { summary: 'Send open files over a Unix domain socket', load: () => import('./send.ts') },
  recv: { summary: 'Receive descriptors, show them or give them to a program', load: () => import('./recv.ts') },
  serve: { summary: 'Listen, and have programs or workers serve', load: () => import('./serve.ts') },
  completion: { summary: 'Print completions for a shell', load: () => import('./completion.ts') }
}

/** The command line as a whole; of its commands those that are `wanted` are complete, and the others have a name and a summary. */
export async function programFor(wanted: (name: string) => boolean): Promise<CliCommand> {
  const { version } = createRequire(import.meta.url)('fdpass/package.json') as { version: string }
  const root = new CliCommand('fdpass')
    .description('Pass open file descriptors between processes, over Unix domain sockets.')
    .usage('COMMAND [OPTION...] [ARGUMENT...]')
    .version(`fdpass ${version}`, '-V, --version', 'Print the version.')
    .helpOption('-h, --help', 'Print this help.')
    .helpCommand('help [COMMAND]', 'Print the help of a command')
    .enablePositionalOptions()
    .exitOverride()
  root.addHelpText('after', () => helpBelow(root))
  for (const [name, { summary, load }] of Object.entries(commands)) {
    const command = new CliCommand(name).copyInheritedSettings(root).summary(summary)
    command.helpOption('-h, --help', 'Print this help.')
    root.addCommand(command)
    if (!wanted(name)) continue
    ;(await load()).define(command as CliCommand)
    command.addHelpText('after', () => helpBelow(command as CliCommand))
  }
  return root
}

/** What stands below the options. */
function helpBelow({ examples, exitCodes, parent }: CliCommand): string {
  const codes = Object.entries(exitCodes).map(([code, meaning]) => `  ${code.padEnd(5)} ${meaning}`)
  const scripts = examples.map((script) => script.replace(/^/gm, '  '))
  return [
    ...(scripts.length > 0 ? ['', 'Examples:', scripts.join('\n\n')] : []),
    '',
    'Exit status:',
    ...codes,
    ...(parent === null ? ['', 'fdpass COMMAND --help tells more of each, and so does fdpass(1).'] : [])
  ].join('\n')
}
