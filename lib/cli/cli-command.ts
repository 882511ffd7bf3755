import { Command } from 'commander'

/** The meanings of exit codes. */
type ExitCodes = Readonly<Record<number, string>>

/** The exit codes of all commands. */
const common: ExitCodes = {
  0: 'Success.',
  1: 'Failure; standard error has the reason.',
  2: 'Invalid command line.',
  141: 'The reader of standard output closed it (128 plus SIGPIPE).'
}

/** A command with exit codes and examples in its help. Each example is a script that runs as printed. */
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

  /** Adds an example: a script whose first line is a comment with its title. */
  addExample(script: string): this {
    this.examples.push(script.trim())
    return this
  }

  /** Adds exit codes that only this command has. */
  addExitCodes(codes: ExitCodes): this {
    this.exitCodes = { ...this.exitCodes, ...codes }
    return this
  }

  /** The command's full name without `fdpass`, such as `store put`; empty for `fdpass` itself. */
  get fullName(): string {
    const { parent } = this
    if (parent === null) return ''
    return `${(parent as CliCommand).fullName} ${this.name()}`.trimStart()
  }

  /** The direct subcommands, without `help`. */
  get subcommands(): readonly CliCommand[] {
    return this.commands.filter((command) => command.name() !== 'help') as CliCommand[]
  }

  /** This command and all its descendants. */
  get descendants(): readonly CliCommand[] {
    return [this, ...this.subcommands.flatMap((command) => command.descendants)]
  }

  /** Returns the part of the help after the options. */
  #helpBelow(): string {
    const codes = Object.entries(this.exitCodes).map(([code, meaning]) => `  ${code.padEnd(5)} ${meaning}`)
    const scripts = this.examples.map((script) => script.replace(/^/gm, '  '))
    const more = `${`fdpass ${this.fullName}`.trim()} COMMAND --help describes each command; see also fdpass(1).`
    return [
      ...(scripts.length > 0 ? ['', 'Examples:', scripts.join('\n\n')] : []),
      '',
      'Exit status:',
      ...codes,
      ...(this.subcommands.length > 0 ? ['', more] : [])
    ].join('\n')
  }
}
