import { Command } from 'commander'

/** Exit codes, and what they mean. */
type ExitCodes = Readonly<Record<number, string>>

/** Those of all commands. */
const common: ExitCodes = {
  0: 'Done.',
  1: 'Something has failed; standard error says what.',
  2: 'The command line cannot be understood.',
  141: 'Nobody reads standard output any more (128 and the number of SIGPIPE).'
}

/** A command with what commander has no place for: exit codes; and examples, which are scripts that work as they are printed. */
export class CliCommand extends Command {
  readonly examples: string[] = []
  exitCodes: ExitCodes = common

  constructor(name?: string) {
    super(name)
    this.addHelpText('after', () => this.#helpBelow())
  }

  override createCommand(name?: string): CliCommand {
    return new CliCommand(name)
  }

  /** Adds a script, whose first line is a comment that says what it does. */
  addExample(script: string): this {
    this.examples.push(script.trim())
    return this
  }

  /** Adds exit codes of this command's own. */
  addExitCodes(codes: ExitCodes): this {
    this.exitCodes = { ...this.exitCodes, ...codes }
    return this
  }

  /** Its name behind `fdpass`: `store put`; empty for `fdpass` itself. */
  get fullName(): string {
    const { parent } = this
    if (parent === null) return ''
    return `${(parent as CliCommand).fullName} ${this.name()}`.trimStart()
  }

  /** The commands below this one, without `help`. */
  get subcommands(): readonly CliCommand[] {
    return this.commands.filter((command) => command.name() !== 'help') as CliCommand[]
  }

  /** This command, and all that are below it. */
  get descendants(): readonly CliCommand[] {
    return [this, ...this.subcommands.flatMap((command) => command.descendants)]
  }

  /** What stands below the options. */
  #helpBelow(): string {
    const codes = Object.entries(this.exitCodes).map(([code, meaning]) => `  ${code.padEnd(5)} ${meaning}`)
    const scripts = this.examples.map((script) => script.replace(/^/gm, '  '))
    const more = `${`fdpass ${this.fullName}`.trim()} COMMAND --help tells more of each, and so does fdpass(1).`
    return [
      ...(scripts.length > 0 ? ['', 'Examples:', scripts.join('\n\n')] : []),
      '',
      'Exit status:',
      ...codes,
      ...(this.subcommands.length > 0 ? ['', more] : [])
    ].join('\n')
  }
}
