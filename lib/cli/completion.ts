import { type Option, Argument } from 'commander'
import type { CliCommand } from './cli-command.ts'
import { programFor } from './command-line.ts'

export function define(command: CliCommand): void {
  command
    .usage('SHELL')
    .addArgument(new Argument('<SHELL>', 'The shell.').choices(Object.keys(scripts)))
    .description('Print a script by which a shell completes the commands and options of fdpass.')
    .example(
      `
# Complete in this bash; its start-up files can have the same line
eval "$(fdpass completion bash)"`
    )
    .example(
      `
# Complete in every zsh and fish
mkdir -p ~/.zsh/completions ~/.config/fish/completions
fdpass completion zsh > ~/.zsh/completions/_fdpass
fdpass completion fish > ~/.config/fish/completions/fdpass.fish`
    )
    .action(async (shell: keyof typeof scripts) => {
      const root = await programFor(() => true)
      process.stdout.write(scripts[shell](root.commands.filter((each) => each.name() !== 'help') as CliCommand[]))
    })
}

const scripts = { bash, zsh, fish }

const optionsOf = (command: CliCommand) => command.createHelp().visibleOptions(command)
const flagsOf = ({ short, long }: Option) => [short, long].filter((flag) => flag !== undefined)
/** What completes the values of these options; others have choices, or nothing that a shell knows. */
const sources: Readonly<Record<string, { readonly bash?: string; readonly zsh: string; readonly fish: string }>> = {
  '--user': { bash: '-u', zsh: '_users', fish: '(__fish_complete_users)' },
  '--group': { bash: '-g', zsh: '_groups', fish: '(__fish_complete_groups)' },
  '--cwd': { zsh: '_directories', fish: '(__fish_complete_directories)' },
  '--config': { zsh: '_files', fish: '(__fish_complete_path)' }
}
const choicesOf = (command: CliCommand) => command.registeredArguments.flatMap(({ argChoices = [] }) => argChoices)

function bash(commands: readonly CliCommand[]): string {
  const values = commands.flatMap((command) =>
    optionsOf(command).flatMap(({ long, argChoices }) => {
      const words = argChoices === undefined ? sources[long!]?.bash : `-W '${argChoices.join(' ')}'`
      if (words === undefined) return []
      return `    '${command.name()} ${long}') COMPREPLY=($(compgen ${words} -- "$cur")); return ;;`
    })
  )
  const words = commands.map((command) => {
    const flags = optionsOf(command).flatMap(flagsOf)
    return `    ${command.name()}) options='${flags.join(' ')}' operands='${choicesOf(command).join(' ')}' ;;`
  })
  return `# bash completion for fdpass
_fdpass() {
  local cur=\${COMP_WORDS[COMP_CWORD]} command=\${COMP_WORDS[1]} options='' operands='' i
  COMPREPLY=()
  for ((i = 2; i < COMP_CWORD; i++)); do [[ \${COMP_WORDS[i]} == -- ]] && return; done
  case "$command \${COMP_WORDS[COMP_CWORD-1]}" in
${values.join('\n')}
  esac
  case $command in
${words.join('\n')}
  esac
  ((COMP_CWORD == 1)) && options='--help --version' operands='${commands.map((command) => command.name()).join(' ')} help'
  [[ $cur == -* ]] && operands=$options
  COMPREPLY=($(compgen -W "$operands" -- "$cur"))
}
complete -o bashdefault -o default -F _fdpass fdpass
`
}

const zshQuote = (text: string) => text.replaceAll("'", "'\\''")

function zsh(commands: readonly CliCommand[]): string {
  const described = commands.map((command) => `'${command.name()}:${zshQuote(command.summary())}'`)
  const cases = commands.map((command) => {
    const specs = optionsOf(command).map((option) => {
      const flags = flagsOf(option)
      const about = `[${zshQuote(option.description).replace(/[[\]:]/g, '\\$&')}]`
      const from =
        option.argChoices === undefined ? (sources[option.long!]?.zsh ?? ' ') : `(${option.argChoices.join(' ')})`
      const value = option.required ? `:${option.attributeName()}:${from}` : ''
      return flags.map((flag) => `'*${flag}${about}${value}'`).join(' ')
    })
    const choices = choicesOf(command)
    const rest = choices.length > 0 ? `'1:value:(${choices.join(' ')})'` : "'*:file:_files'"
    return `    ${command.name()}) _arguments -S ${[...specs, rest].join(' \\\n      ')} ;;`
  })
  return `#compdef fdpass
_fdpass() {
  local -a commands=(${described.join(' ')} 'help:Print the help of a command')
  if ((CURRENT == 2)); then
    _describe command commands
    _arguments '--help[Print this help.]' '--version[Print the version.]'
    return
  fi
  shift words; ((CURRENT--))
  case $words[1] in
${cases.join('\n')}
  esac
}
if [[ $funcstack[1] == _fdpass ]]; then _fdpass "$@"; else compdef _fdpass fdpass; fi
`
}

const fishQuote = (text: string) => `'${text.replace(/['\\]/g, '\\$&')}'`

function fish(commands: readonly CliCommand[]): string {
  const lines = commands.flatMap((command) => {
    const seen = `-n '__fish_seen_subcommand_from ${command.name()}'`
    const options = optionsOf(command).map(({ short, long, required, argChoices, description }) => {
      const from = argChoices?.join(' ') ?? sources[long!]?.fish
      const value = required ? (from === undefined ? ' -x' : ` -x -a ${fishQuote(from)}`) : ''
      const flags = `${short === undefined ? '' : ` -s ${short.slice(1)}`} -l ${long!.slice(2)}`
      return `complete -c fdpass ${seen}${flags}${value} -d ${fishQuote(description)}`
    })
    const choices = choicesOf(command)
    if (choices.length > 0) options.push(`complete -c fdpass ${seen} -f -a '${choices.join(' ')}'`)
    return [
      `complete -c fdpass -n __fish_use_subcommand -f -a ${command.name()} -d ${fishQuote(command.summary())}`,
      ...options
    ]
  })
  return `# fish completion for fdpass\n${lines.join('\n')}\n`
}
