// Reads the errors and warnings of the package and of the command line from the TypeScript sources: each `new Error(…)` with its code and every
// form of its text. A text that comes from parameters is followed to the callers, and what only a run knows becomes a <placeholder>.
import { join, relative } from 'node:path'
import { constants } from 'node:os'
import ts from '@typescript/typescript6'
import { root } from '../run.mjs'

/** Parameters that hold the caller's data. Any other parameter of a text is followed to the calls of its function. */
const DATA = new Set([
  'what',
  'method',
  'name',
  'argument',
  'address',
  'path',
  'fd',
  'value',
  'syscall',
  'setting',
  'program',
  'file'
])
/** Functions that show a value: the placeholder is that of their argument. */
const SHOWING = new Set(['inspect', 'shown', 'show', 'String', 'displayAddress', 'jsonOf', 'userText'])
const MAX_DEPTH = 12
const ERRORS = /^(?:Error|TypeError|RangeError|CliError|InvalidArgumentError)$/

/** Thrown while a text is read: it depends on something that has several values, each an `env` to read it with again. */
class Fork extends Error {
  envs

  constructor(envs) {
    super('A text has several forms')
    this.envs = envs
  }
}

class Reader {
  #checker
  #files
  /** The calls of each function, by its declaration. */
  #calls = new Map()

  constructor(files) {
    const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
    const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
    const program = ts.createProgram(files, {
      ...options,
      noEmit: true,
      incremental: false,
      tsBuildInfoFile: undefined
    })
    this.#checker = program.getTypeChecker()
    this.#files = program.getSourceFiles().filter(({ fileName }) => files.includes(fileName))
    this.#each(ts.isCallExpression, (call) => {
      const declaration = this.#declarationOf(call.expression)
      if (declaration !== undefined) this.#calls.set(declaration, [...(this.#calls.get(declaration) ?? []), call])
    })
  }

  /** Returns every error and warning: `{ file, type, code, text }`. */
  read() {
    const found = []
    const add = (node, type, read) => {
      for (const alternative of this.#expand(new Map(), read)) {
        found.push({ file: relative(root, node.getSourceFile().fileName), type, ...alternative })
      }
    }
    this.#each(ts.isNewExpression, (node) => {
      const type = node.expression.getText()
      if (!ERRORS.test(type)) return
      if (this.#functionOf(node)?.name?.text === 'systemError') return
      add(node, type, (env) => {
        const code = type === 'CliError' ? this.#argument(node, 1, env, '1') : this.#codeOf(node, env)
        return { code, text: this.#text(node.arguments[0], env) }
      })
    })
    this.#each(ts.isCallExpression, (node) => {
      const callee = node.expression.getText()
      if (callee === 'process.emitWarning') {
        const [text, options] = node.arguments
        add(node, 'Warning', (env) => ({
          code: this.#text(this.#property(options, 'code'), env),
          text: this.#text(text, env)
        }))
      }
      const errno = callee === 'systemError' || callee === 'pathError' ? this.#errno(node.arguments[0]) : undefined
      if (errno !== undefined) {
        add(node, 'SystemError', (env) => ({ code: errno, text: `${errno}: …, ${this.#text(node.arguments[1], env)}` }))
      }
    })
    return found
  }

  #each(is, callback) {
    const visit = (node) => {
      if (is(node)) callback(node)
      ts.forEachChild(node, visit)
    }
    for (const file of this.#files) visit(file)
  }

  /** Reads with an environment, and again with each one that a fork names. */
  #expand(env, read, depth = 0) {
    try {
      return [read(env)]
    } catch (error) {
      if (!(error instanceof Fork)) throw error
      if (depth === MAX_DEPTH) throw new Error('a text of an error depends on too many callers', { cause: error })
      return error.envs.flatMap((bindings) => this.#expand(new Map([...env, ...bindings]), read, depth + 1))
    }
  }

  #declarationOf(node) {
    const symbol = this.#symbolOf(node)
    const declaration = symbol?.declarations?.find((each) => each.body !== undefined || each.initializer !== undefined)
    const value =
      declaration !== undefined && ts.isVariableDeclaration(declaration) ? declaration.initializer : declaration
    return value !== undefined && ts.isFunctionLike(value) ? value : undefined
  }

  #symbolOf(node) {
    const symbol =
      ts.isShorthandPropertyAssignment(node.parent) && node.parent.name === node
        ? this.#checker.getShorthandAssignmentValueSymbol(node.parent)
        : this.#checker.getSymbolAtLocation(node)
    return symbol !== undefined && (symbol.flags & ts.SymbolFlags.Alias) !== 0
      ? this.#checker.getAliasedSymbol(symbol)
      : symbol
  }

  #functionOf(node) {
    return ts.findAncestor(node.parent, ts.isFunctionLike)
  }

  #argument(node, place, env, otherwise) {
    const argument = node.arguments[place]
    return argument === undefined ? otherwise : this.#text(argument, env)
  }

  #property(object, name) {
    return object.properties.find((property) => property.name?.text === name)
  }

  /** Returns the code that is assigned to a new error, in the call around it or in a later one of its function. */
  #codeOf(node, env) {
    const call = ts.isCallExpression(node.parent) ? node.parent : undefined
    const [argument] = call?.arguments ?? []
    if (argument === node) return this.#assigned(call, env)
    const variable = ts.isVariableDeclaration(node.parent) ? this.#symbolOf(node.parent.name) : undefined
    if (variable === undefined) return 'none'
    const uses = []
    const visit = (each) => {
      if (
        ts.isCallExpression(each) &&
        each.arguments[0] !== undefined &&
        this.#symbolOf(each.arguments[0]) === variable
      )
        uses.push(each)
      ts.forEachChild(each, visit)
    }
    visit(this.#functionOf(node)?.body ?? node.getSourceFile())
    return uses.length === 0 ? 'none' : this.#assigned(uses[0], env)
  }

  #assigned({ expression, arguments: given }, env) {
    const [, properties] = given
    switch (expression.getText()) {
      case 'withCode':
        return this.#text(properties, env)
      case 'aboutArgument':
        return this.#text(properties, env)
      case 'Object.assign': {
        if (!ts.isObjectLiteralExpression(properties)) return 'none'
        const code = this.#property(properties, 'code')
        return code === undefined ? 'none' : this.#text(code, env)
      }
      default:
        return 'none'
    }
  }

  /** Returns the name of a constant error number: `EPIPE` for `-constants.errno.EPIPE`, or for a constant with this value. */
  #errno(node) {
    if (ts.isPrefixUnaryExpression(node)) return this.#errno(node.operand)
    const name = ts.isPropertyAccessExpression(node) ? node.name.text : ''
    if (Object.hasOwn(constants.errno, name)) return name
    const { initializer } = this.#symbolOf(node)?.valueDeclaration ?? {}
    return ts.isIdentifier(node) && initializer !== undefined ? this.#errno(initializer) : undefined
  }

  #text(node, env) {
    if (typeof node === 'string') return node
    if (ts.isStringLiteralLike(node) || ts.isNumericLiteral(node)) return node.text
    if (ts.isTemplateExpression(node)) {
      const spans = node.templateSpans.map(({ expression, literal }) => this.#text(expression, env) + literal.text)
      return node.head.text + spans.join('')
    }
    if (ts.isPropertyAssignment(node)) return this.#text(node.initializer, env)
    if (ts.isShorthandPropertyAssignment(node)) return this.#text(node.name, env)
    if (ts.isParenthesizedExpression(node) || ts.isAsExpression(node) || ts.isNonNullExpression(node))
      return this.#text(node.expression, env)
    if (ts.isBigIntLiteral(node)) return node.text.replace(/n$/, '')
    if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken && this.#isString(node))
      return this.#text(node.left, env) + this.#text(node.right, env)
    if (ts.isConditionalExpression(node)) return this.#choice(node, [node.whenTrue, node.whenFalse], env)
    if (ts.isCallExpression(node)) return this.#result(node, env)
    if (ts.isIdentifier(node)) return this.#named(node, env)
    return this.#placeholder(node)
  }

  /** Returns the text of one of several expressions, as `env` has it for this node. */
  #choice(node, options, env) {
    if (!env.has(node)) throw new Fork(options.map((option) => [[node, option]]))
    return this.#text(env.get(node), env)
  }

  #named(node, env) {
    const symbol = this.#symbolOf(node)
    if (symbol === undefined) return this.#placeholder(node)
    if (env.has(symbol)) return this.#text(env.get(symbol), env)
    const { valueDeclaration: declaration } = symbol
    if (declaration === undefined) return this.#placeholder(node)
    if (ts.isParameter(declaration) && ts.isIdentifier(declaration.name)) return this.#parameter(node, declaration)
    if (ts.isBindingElement(declaration)) return this.#element(node, declaration)
    const isConst =
      ts.isVariableDeclaration(declaration) &&
      (declaration.parent.flags & ts.NodeFlags.Const) !== 0 &&
      declaration.initializer !== undefined
    const isKnown =
      isConst &&
      (this.#isString(node) ||
        ts.isNumericLiteral(declaration.initializer) ||
        ts.isBigIntLiteral(declaration.initializer))
    if (!isKnown) return this.#placeholder(node)
    const text = this.#text(declaration.initializer, env)
    // A name that the sources give to a value says more than what it was made of.
    return /^<[^ ]*$/.test(text.replaceAll(/<[^>]*>/g, '<')) ? this.#placeholder(node) : text
  }

  #parameter(node, declaration) {
    const owner = declaration.parent
    const calls = this.#calls.get(owner) ?? []
    if (DATA.has(node.text) || !this.#isString(node) || calls.length === 0) return this.#placeholder(node)
    throw new Fork(
      calls.map((call) =>
        owner.parameters.map((parameter, place) => [
          this.#symbolOf(parameter.name) ?? parameter,
          call.arguments[place] ?? parameter.initializer ?? `<${parameter.name.getText()}>`
        ])
      )
    )
  }

  #isString(node) {
    const type = this.#checker.getTypeAtLocation(node)
    const types = type.isUnion() ? type.types : [type]
    return types.some(({ flags }) => (flags & ts.TypeFlags.StringLike) !== 0)
  }

  /** An element of a row of a constant table: `const [code, text] = table[n]`. */
  #element(node, declaration) {
    const pattern = declaration.parent
    const initializer = pattern.parent.initializer
    const access =
      initializer !== undefined && ts.isNonNullExpression(initializer) ? initializer.expression : initializer
    if (!ts.isArrayBindingPattern(pattern) || access === undefined || !ts.isElementAccessExpression(access))
      return this.#placeholder(node)
    const table = this.#symbolOf(access.expression)?.valueDeclaration?.initializer
    const rows = table !== undefined && ts.isAsExpression(table) ? table.expression : table
    if (rows === undefined || !ts.isArrayLiteralExpression(rows)) return this.#placeholder(node)
    throw new Fork(
      rows.elements.map((row) =>
        pattern.elements.map((element, place) => [this.#symbolOf(element.name), row.elements[place]])
      )
    )
  }

  /** Returns the text that a function of the sources returns. */
  #result(node, env) {
    const callee = node.expression.getText()
    const [argument] = node.arguments
    if (SHOWING.has(callee) && argument !== undefined) return this.#placeholder(argument)
    // `text.charAt(0).toUpperCase()`, followed by `text.slice(1)`.
    const { expression } = node
    if (ts.isPropertyAccessExpression(expression)) {
      const { name, expression: object } = expression
      if (name.text === 'toUpperCase' || name.text === 'toLowerCase') return this.#text(object, env)[name.text]()
      if (name.text === 'charAt') return this.#text(object, env).charAt(0)
      if (name.text === 'slice' && argument?.getText() === '1') return this.#text(object, env).slice(1)
    }
    const declaration = this.#declarationOf(expression)
    if (declaration?.body === undefined || ts.isMethodDeclaration(declaration)) return this.#placeholder(node)
    const results = this.#results(declaration)
    if (results.length === 0) return this.#placeholder(node)
    const bindings = declaration.parameters.map((parameter, place) => [
      this.#symbolOf(parameter.name) ?? parameter,
      node.arguments[place] ?? parameter.initializer ?? `<${parameter.name.getText()}>`
    ])
    const inner = new Map([...env, ...bindings.filter(([, value]) => value !== undefined)])
    return results.length === 1 ? this.#text(results[0], inner) : this.#choice(node, results, inner)
  }

  #results({ body }) {
    if (!ts.isBlock(body)) return [body]
    const results = []
    const visit = (node) => {
      if (ts.isReturnStatement(node) && node.expression !== undefined) results.push(node.expression)
      if (!ts.isFunctionLike(node)) ts.forEachChild(node, visit)
    }
    visit(body)
    return results
  }

  #placeholder(node) {
    if (ts.isPropertyAccessExpression(node) && node.name.text === 'length') return '<number>'
    if (ts.isPropertyAccessExpression(node) || ts.isPrivateIdentifier(node))
      return `<${node.name.text.replace('#', '')}>`
    if (ts.isCallExpression(node)) {
      const { expression } = node
      const argument = node.arguments.find(ts.isIdentifier)
      if (argument !== undefined) return `<${argument.text}>`
      return ts.isPropertyAccessExpression(expression)
        ? this.#placeholder(expression.expression)
        : `<${expression.getText()}>`
    }
    if (ts.isIdentifier(node)) return `<${node.text}>`
    const inner = ts.forEachChild(node, (child) => (ts.isExpression(child) ? child : undefined))
    return inner === undefined ? '<value>' : this.#placeholder(inner)
  }
}

/** Returns the errors and warnings that the given files create. */
export function readMessages(files) {
  return new Reader(files).read()
}
