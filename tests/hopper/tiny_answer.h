#pragma once
#define TINY_ANSWER 42
